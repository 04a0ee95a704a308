"""Finding records: queries, pages, the index, following, and looking up a single record.

Its front door is `audit_async.reader`.
"""
