"""Writing records out: to NDJSON, CSV, Parquet, Arrow batches, an evidence bundle, or the result of a SELECT.

Its front door is `audit_async.reader`.
"""
