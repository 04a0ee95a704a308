"""What a log directory looks like: names, manifest, hold, and reading an archive.

Both halves of the package use it: the writer to know what to make, the readers to know what to expect. It changes
nothing on disk.
"""
