"""Writing records out: to NDJSON, CSV, Parquet, or an evidence bundle.

Its front door is `audit_async.reader`.
"""
