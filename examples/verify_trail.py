"""Check trails with nothing but Python: `python verify_trail.py PATH`; see `audit_async/standalone.py`."""

import runpy
import sys
from pathlib import Path

VERIFIER = Path(__file__).parents[1] / "audit_async" / "standalone.py"

if __name__ == "__main__":
    sys.argv[0] = str(VERIFIER)
    runpy.run_path(str(VERIFIER), run_name="__main__")
