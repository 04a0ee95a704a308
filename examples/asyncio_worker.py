"""An asyncio worker: jobs from a queue, each recorded, and an orderly end. `python -m examples.asyncio_worker [DIR]`.

Jobs come on stdin, one a line: `<task id> <tokens>`. At SIGTERM, as at the end of the input, the worker reads no more,
finishes the jobs that it has, and leaves; what they recorded is drained on the way out, and the exit status is 0.
"""

import asyncio
import signal
import sys

from audit_async import ActorInfo, AuditConfig, AuditLogger, AuthMethod, Local, run
from audit_async.events import Success, TaskCompleted, TaskSubmitted

WORKERS = 4


async def work(name: str, jobs: asyncio.Queue[tuple[str, int]], audit: AuditLogger) -> None:
    """Do one job after the other, until cancelled between two of them."""
    while True:
        task_id, tokens = await jobs.get()
        await asyncio.sleep(tokens / 1_000_000)  # the work itself
        audit.emit(
            TaskCompleted(
                task_id=task_id,
                worker_id=name,
                tokens_generated=tokens,
                duration_ms=tokens // 1000,
                result=Success(),
            )
        )
        jobs.task_done()


async def take_jobs(jobs: asyncio.Queue[tuple[str, int]], audit: AuditLogger) -> None:
    """Put each line of stdin into the queue; a job counts as taken once its record is durable."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    stdin, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    loop.add_signal_handler(
        signal.SIGTERM, stdin.close
    )  # the end of the input, even if another process still writes to it
    client = ActorInfo(user_id="stdin", auth_method=AuthMethod.INTERNAL)
    while (line := await reader.readline()).endswith(b"\n"):
        task_id, tokens = line.decode().split()
        await audit.emit_durable(
            TaskSubmitted(
                actor=client,
                task_id=task_id,
                model_ref="example",
                prompt_length=0,
                prompt_hash="",
                max_tokens=int(tokens),
            )
        )
        await jobs.put((task_id, int(tokens)))
        print(f"took {task_id}", flush=True)


async def main(directory: str) -> None:
    """Work until the input or a signal ends it."""
    # `handle_signals=False`: the signal means "finish", and the library would drain and let it strike before that.
    config = AuditConfig(mode=Local(directory), service_id="worker", handle_signals=False)
    async with AuditLogger(config) as audit:
        jobs: asyncio.Queue[tuple[str, int]] = asyncio.Queue(maxsize=100)
        workers = [asyncio.create_task(work(f"worker-{n}", jobs, audit)) for n in range(WORKERS)]
        try:
            await take_jobs(jobs, audit)
        finally:  # also if a line is no job
            await jobs.join()
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
    print(f"done: {audit.stats().durable} records are durable", flush=True)


if __name__ == "__main__":
    run(main, sys.argv[1] if len(sys.argv) > 1 else "./audit")
