"""The system calls that change a disk, each with what it guarantees; this room decides nothing."""
