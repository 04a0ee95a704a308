"""The system calls that change a disk, and nothing else: no decisions, no knowledge of logs.

No other room calls `os.rename`, `os.fsync` or their like (tests/store/test_durable.py looks).
"""
