"""A process that stores keys as a writer does, while others erase.

Started as `python -m tests.privacy.busy_key_store STORE KEY STOP`; it ends once there is a file STOP.

A line on stdout for each key, after it was stored or refused: its id, the number of its subject, the epoch that it was
made under, and what the store said.
"""

from __future__ import annotations

import os
import random
import sys
import time

from audit_async.privacy import KeyMaker, NewKey, Subject, open_key_store
from tests.privacy.key_stores import TODAY

SUBJECTS = 8


def main() -> None:
    """Make keys now, store them a little later, and pass each epoch once what was pending is stored."""
    path, key, stop = sys.argv[1:]
    dice = random.Random(os.getpid())  # noqa: S311 - a scenario
    store = open_key_store(path, key)
    session = store.open_session(f"busy/{os.getpid()}")
    maker, known = KeyMaker(), store.epoch()
    pending: list[tuple[int, NewKey]] = []
    number = 0
    while not os.path.exists(stop):
        number += 1
        for _ in range(dice.randint(1, 20)):
            who = dice.randrange(SUBJECTS)
            subject = store.pseudonym(Subject("", "user", f"user{who}"))
            pending.append((who, maker.make(subject, TODAY - number % 2, known)))
        time.sleep(dice.random() / 100)
        epoch = store.epoch()
        if epoch != known:
            assert store.changes_since(known).epoch >= epoch
        refused = set(session.insert([made for _, made in pending]))
        lines = [
            f"{made.key_id.hex()} {who} {made.epoch} {'refused' if made.key_id in refused else 'stored'}\n"
            for who, made in pending
        ]
        os.write(1, "".join(lines).encode())
        pending.clear()
        if epoch != known:
            session.passed(epoch)
            known = epoch
    store.close()


if __name__ == "__main__":
    main()
