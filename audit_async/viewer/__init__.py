"""A viewer of audit trails in the browser: an ASGI application that only reads, and records who has looked.

    from starlette.applications import Starlette
    from starlette.requests import Request

    def person_of(request: Request) -> Person | None:
        name = request.session.get("user")  # whatever the application knows people by
        return Person(name=name, role="auditor") if name else None

    app = Starlette()
    app.mount("/audit", viewer("/var/lib/audit", sign_in=person_of))

`audit-async serve DIR` runs it by itself. Needs the extra `viewer`.

| module | subject |
| --- | --- |
| `web_app` | `viewer`: the application, put together |
| `people`, `permissions`, `role_file` | who may see what |
| `entrance`, `web_sessions`, `sign_in_routes` | who it is that looks |
| `token_sign_in`, `proxy_sign_in`, `oidc_sign_in` | the ways to show who one is |
| `request_checks`, `request_limits`, `response_headers` | what is refused at once, and what every answer carries |
| `embed_links` | links to the records of one tenant |
| `downloads` | a search as a file, the proof of a record |
| `scoped_reader`, `viewing` | the trail as one person may see it |
| `view_log` | the viewer's own log of who has looked |
| `error_pages`, `pages` | what is shown |
"""

from audit_async._first_use import installed_by

with installed_by("audit-async[viewer]", __name__):
    from audit_async.viewer.embed_links import EmbedLinks, LinkRefused, embed_link, read_embed_key
    from audit_async.viewer.entrance import PersonOf
    from audit_async.viewer.oidc_sign_in import OidcSignIn
    from audit_async.viewer.people import NotPermitted, Person, Role
    from audit_async.viewer.proxy_sign_in import ProxySignIn
    from audit_async.viewer.request_limits import ViewLimits
    from audit_async.viewer.role_file import Roles
    from audit_async.viewer.token_sign_in import TokenSignIn
    from audit_async.viewer.view_log import AccessNotRecorded
    from audit_async.viewer.web_app import Viewer, viewer

__all__ = [
    "AccessNotRecorded",
    "EmbedLinks",
    "LinkRefused",
    "NotPermitted",
    "OidcSignIn",
    "Person",
    "PersonOf",
    "ProxySignIn",
    "Role",
    "Roles",
    "TokenSignIn",
    "ViewLimits",
    "Viewer",
    "embed_link",
    "read_embed_key",
    "viewer",
]
