"""gunicorn's settings for orders_service.py: `gunicorn --config orders_gunicorn.py orders_service:app`.

The order of the limits is what matters: requests end, then the trail drains, and only then does gunicorn kill a worker.
"""

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker


class EndingWorker(UvicornWorker):  # type: ignore[misc]  # the package is not typed
    """uvicorn under gunicorn, which by itself waits for a request that hangs until gunicorn kills it."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"timeout_graceful_shutdown": 20}


bind = "127.0.0.1:8000"
workers = 2
worker_class = "orders_gunicorn.EndingWorker"
#: After SIGTERM: 20 s for requests, 10 s for the trail (`drain_timeout`), and a reserve; then SIGKILL.
graceful_timeout = 40
#: A worker that has not answered its parent for so long is killed. Above what a blocking handler may take.
timeout = 60
#: Each worker opens a log of its own, in the first free slot. With `preload_app` as well.
preload_app = False
