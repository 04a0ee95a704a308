"""`python -m audit_async.cli`: the same as `audit-async`."""

import sys

from audit_async.cli import main

sys.exit(main())
