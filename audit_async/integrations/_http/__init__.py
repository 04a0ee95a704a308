"""What every web integration shares, whatever the framework: which requests are recorded, how, and as what event.

No framework, no ASGI and no I/O in here; `audit_async.integrations.asgi` and `.aiohttp` bring the requests.
"""
