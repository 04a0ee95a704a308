"""Finding logs below a directory and reading their lines, for `_verify`, `_query` and `_export`.

It judges nothing, changes nothing, and needs no lock: it works next to a running writer.
"""
