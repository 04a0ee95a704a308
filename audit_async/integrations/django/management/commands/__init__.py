"""The commands of `manage.py`. Not the command line of the library, which is `audit_async.cli`."""
