"""Tasks over several processes: they are done there, and here only what a process that died has left."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from audit_async._query.likely_lines import LikelyLines, LikelyTask, find_lines
from audit_async._query.matching import Filter
from audit_async._query.record_counts import count_segment
from audit_async._query.term_index import IndexTask
from audit_async._trail import worker_pool
from audit_async._trail.segment_parts import parts_of
from audit_async._trail.worker_pool import run_tasks, take_answers
from audit_async._trail.worker_process import Message
from audit_async.reader import AuditQuery, AuditReader
from tests.trail.written import WrittenLog

pytestmark = pytest.mark.anyio


class DoneHereError(Exception):
    """A task was done in this process."""


@pytest.fixture
def tasks(tmp_path: Path) -> list[LikelyTask]:
    """Return what can be searched for in each sealed segment of a log."""
    log = WrittenLog(tmp_path)
    for number in range(40):
        log.write({"event_type": "test", "actor": "mallory" if number % 5 == 0 else "eve"})
    log.sealed()
    wanted = Filter(AuditQuery(actor="mallory"))
    [found] = AuditReader(tmp_path).logs()
    return [
        LikelyTask(directory=str(found.directory), sealed=part.segment.sealed, needles=wanted.needles)
        for part in parts_of(found)
        if part.segment.sealed is not None
    ]


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise if this process has to do a task itself."""

    async def refuse(_work: object, tasks: list[object], _advance: object) -> list[object]:
        raise DoneHereError(f"{len(tasks)} tasks")

    monkeypatch.setattr(worker_pool, "run_in_thread", refuse)


@pytest.mark.usefixtures("nothing_here")
async def test_processes_do_all_of_the_tasks(tasks: list[LikelyTask], caplog: pytest.LogCaptureFixture) -> None:
    """What comes back is what this process would have found, and it has done nothing itself."""
    answers: dict[int, LikelyLines] = {}
    done = [0]

    def advance(bytes_: int, _: int) -> None:
        done[0] += bytes_

    sizes = [task.sealed.bytes for task in tasks]
    await take_answers(find_lines, tasks, sizes, processes=2, advance=advance, take=answers.__setitem__)
    assert len(tasks) > 2
    assert [answers[number] for number in range(len(tasks))] == [find_lines(task, lambda *_: None) for task in tasks]
    assert any(answer.places for answer in answers.values())
    assert done[0] == sum(sizes)
    assert not caplog.records


@pytest.mark.parametrize(("bytes_", "trips"), [(1, 1), (9 << 20, None)], ids=["small", "large"])
async def test_small_tasks_share_a_trip_to_a_thread(
    tasks: list[LikelyTask], monkeypatch: pytest.MonkeyPatch, bytes_: int, trips: int | None
) -> None:
    """The way to a thread and back takes as long as reading a hundred records, so it is not taken for each segment."""
    together: list[int] = []
    in_thread = worker_pool.run_in_thread

    async def count(work: object, some: list[object], advance: object) -> list[object]:
        together.append(len(some))
        return await in_thread(work, some, advance)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(worker_pool, "run_in_thread", count)
    answers = await run_tasks(find_lines, tasks, [bytes_] * len(tasks), 1, lambda *_: None)
    assert answers == [find_lines(task, lambda *_: None) for task in tasks]
    assert sum(together) == len(tasks) > 2
    assert len(together) == (trips or len(tasks))


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["false"], "a process ended before it had answered"),
        (["sh", "-c", "read task; echo nonsense; cat"], "the answer of a process was not understood"),
        (["/nowhere/python"], "a process could not be started: [Errno 2] No such file or directory"),
    ],
)
async def test_if_no_process_answers_the_tasks_are_done_here(
    tasks: list[LikelyTask],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    command: list[str],
    why: str,
) -> None:
    """The control: without processes it is this one that is asked, and the log says why."""
    monkeypatch.setattr(worker_pool, "command_for", lambda *_: command)
    with pytest.raises(DoneHereError):
        await take_answers(
            find_lines, tasks, [1] * len(tasks), processes=2, advance=lambda *_: None, take=lambda *_: None
        )
    [remark] = caplog.records
    assert remark.levelname == "WARNING"
    assert remark.getMessage().startswith(f"reading goes on with fewer processes, which takes longer: {why}")


@pytest.mark.parametrize("answer", [b'{"places":[[1,2]]}', b"null", b"[]", b'"text"', b"0"])
def test_any_answer_travels(answer: bytes) -> None:
    """An answer of every kind of JSON is told from none."""
    sent = msgspec.json.encode(Message(7, 0, msgspec.Raw(answer)))
    assert bytes(msgspec.json.decode(sent, type=Message).answer) == answer
    assert not bytes(msgspec.json.decode(msgspec.json.encode(Message(7, 1)), type=Message).answer)


@pytest.mark.usefixtures("nothing_here", "tasks")
async def test_whoever_uses_the_pool_has_processes_that_answer(tmp_path: Path) -> None:
    """Verification, index and counts: each process understands what it is asked, and is understood."""
    reader = AuditReader(tmp_path)
    assert (await reader.verify(processes=2)).valid
    assert len([outcome async for outcome in reader.build_index(processes=2)]) > 2
    [found] = reader.logs()
    parts = [part for part in parts_of(found) if part.segment.sealed is not None]
    counting = list(IndexTask.of(parts))
    counts = await run_tasks(count_segment, counting, [1] * len(counting), 2, lambda *_: None)
    assert len(counts) > 2
    assert all(count.is_sound for count in counts)
