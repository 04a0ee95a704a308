"""The writer's files: segments, sealing, damage, recovery, retention and the lock.

This room keeps a log on disk and reports how far it is durable. It knows no events and no event loop and starts no
thread: every call blocks, and all calls on one log come from one thread, the disk thread, which owns its state.
"""
