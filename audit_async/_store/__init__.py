"""The writer's files: segments, sealing, damage, recovery, retention, holds and the lock.

This room keeps a log on disk and reports how far it is durable. It knows no events and no event loop and starts no
thread: every call blocks, and all calls on one log come from one thread, the disk thread, which owns its state.

Read `log_store` first: how a log is opened, and what a commit does. `survey` judges what an opening finds and `repair`
puts it in order; `touched_files` handles what other programs do to the files of an open log.
"""
