"""Run the benchmarks, all of them or those named: `python -m benchmarks [NAME …]`.

One after the other, each in a process and a database of its own. Ends with 1 when a bound was missed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NO_BENCHMARK = {"__init__", "__main__", "harness"}  # and the soak is `make soak`


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NO_BENCHMARK)
    if unknown := sorted(set(names) - set(known)):
        print(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    missed = []
    for name in names or known:
        print(f"# {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=HERE.parent).returncode:
            missed.append(name)
    print(f"# missed: {', '.join(missed)}" if missed else "# every bound was met", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
