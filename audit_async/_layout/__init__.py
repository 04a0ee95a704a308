"""What a log directory looks like: names, access, manifest, holds, what a crash leaves, and reading an archive.

Both halves of the package use it: the writer to know what to make, the readers to know what to expect. It changes
nothing on disk.
"""
