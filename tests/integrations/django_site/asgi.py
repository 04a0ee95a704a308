"""The project for ASGI servers."""

from audit_async.integrations.django import get_asgi_application

application = get_asgi_application()
