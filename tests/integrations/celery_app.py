"""A Celery application whose tasks are in a trail: `python -m celery -A tests.integrations.celery_app worker`.

Environment: CELERY_BROKER, CELERY_AUDIT (the trail's directory), CELERY_DONE (a file with a line a finished run),
CELERY_AMBIENT (Celery is given no log).
"""

import os
import time
from contextlib import suppress

from celery import Celery, Task
from celery.exceptions import Ignore, Reject

from audit_async import AuditConfig, Local, LogClosed, set_audit
from audit_async.integrations.celery import audit_tasks
from audit_async.sync import SyncAuditLogger
from tests.logs import Counted

app = Celery("shop", broker=os.environ.get("CELERY_BROKER", "memory://"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_default_queue="shop",
    task_ignore_result=True,
    worker_hijack_root_logger=False,
)
audit = SyncAuditLogger(AuditConfig(mode=Local(os.environ.get("CELERY_AUDIT", "audit")), service_id="shop"))
#: As in a Django project: Celery is given no log, and the first event of a process opens one.
IS_AMBIENT = "CELERY_AMBIENT" in os.environ


def opened() -> SyncAuditLogger:
    """Return the log of this process, open from the first call on."""
    with suppress(LogClosed):  # it is open
        audit.start()
    return audit


set_audit(opened if IS_AMBIENT else audit)
audited = audit_tasks(
    app,
    None if IS_AMBIENT else audit,
    arguments={"shop.refund": ("order_id",)},
    durable="CELERY_DURABLE" in os.environ,
)


def done(line: str) -> None:
    """Note that a run has reached its end, so that a test knows of it though the process dies."""
    file = os.open(os.environ["CELERY_DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


@app.task(name="shop.refund")
def refund(order_id: str, cents: int) -> str:
    """Emit an event of its own, and succeed."""
    audit.emit(Counted(producer=order_id, n=cents))
    done(order_id)
    return f"{cents} for {order_id}"


@app.task(name="shop.fail")
def fail(text: str) -> None:
    """Fail."""
    raise KeyError(text)


@app.task(name="shop.flaky", bind=True, max_retries=2)
def flaky(self: Task) -> None:
    """Succeed at the third attempt."""
    if self.request.retries < 2:
        raise self.retry(exc=ConnectionError("hunter2"), countdown=0)


@app.task(name="shop.reject", acks_late=True)
def reject() -> None:
    """Give the message back for good."""
    raise Reject("no", requeue=False)


@app.task(name="shop.ignore")
def ignore() -> None:
    """Say that the outcome is nobody's business."""
    raise Ignore


@app.task(name="shop.sleep")
def sleep(seconds: float, order_id: str) -> None:
    """Take a while."""
    done(f"{os.getpid()} {order_id}")
    time.sleep(seconds)


@app.task(name="shop.many", acks_late=True)
def many(number: int) -> None:
    """Take a moment, and note the end of the run."""
    time.sleep(0.02)
    done(str(number))
