"""Finding logs below a directory and reading their lines; this room judges nothing and needs no lock.

`_verify`, `_query` and `_export` are built on it.
"""
