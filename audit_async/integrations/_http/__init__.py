"""What the web integrations share: which requests are recorded, how much of them, and as which event.

No framework, no ASGI and no I/O in here; `audit_async.integrations.asgi` and `.aiohttp` bring the requests.
"""
