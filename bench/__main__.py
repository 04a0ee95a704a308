"""`python -m bench [name ...]`: run these benchmarks, or all."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from bench import emit, loop_lag, opening, throughput
from bench.frame import machine

_BENCHMARKS: dict[str, Callable[[], None]] = {
    "emit": emit.run,
    "throughput": throughput.run,
    "loop_lag": loop_lag.run,
    "opening": opening.run,
}


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure audit-async on this machine.")
    parser.add_argument("name", nargs="*", help=f"which of {', '.join(_BENCHMARKS)}; all where none is named")
    names = parser.parse_args().name or list(_BENCHMARKS)
    if unknown := [name for name in names if name not in _BENCHMARKS]:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(_BENCHMARKS)}")
    print(f"Measured on: {machine()}")
    for name in names:
        _BENCHMARKS[name]()


if __name__ == "__main__":
    main()
