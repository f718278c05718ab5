"""`make test-long`: what takes longer than CI has, one part after the other, and what came of each.

The parts: the tests marked `long`, folder by folder, five seeds of the demo, its controls. benchmarks/results/long.json keeps the last result of
each part with its commit, so that one part can be run alone (`--only`). Exit code 1 where a part fails.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.record import RESULTS, ROOT, Claim, commit, write

FOLDERS = {"long tests of whole runs": "tests/runs", "several hosts": "tests/hosts", "autoscaled runs": "tests/deploy"}
PYTEST = ["-m", "pytest", "-m", "long"]
PARTS = {
    **{name: [*PYTEST, folder] for name, folder in FOLDERS.items()},
    "the other long tests": [*PYTEST, "tests", *(f"--ignore={folder}" for folder in FOLDERS.values())],
    "five seeds of the demo": ["-m", "recipes.demo", "--seeds", "0,1,2,3,4"],
    "the demo's controls": ["-m", "recipes.demo", "--controls", "--seed", "0"],
}


def known() -> dict[str, dict[str, Any]]:
    """The last result of each part, from the file."""
    file = RESULTS / "long.json"
    parts = json.loads(file.read_text(encoding="utf-8"))["details"]["parts"] if file.is_file() else {}
    return {name: part for name, part in parts.items() if name in PARTS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="run one part; the others keep their last result")
    only = parser.parse_args().only
    parts = known()
    codes = []
    for name, words in PARTS.items():
        if only not in (None, name):
            continue
        print(f"--- {name}: python {' '.join(words)}", flush=True)
        started = time.monotonic()
        codes.append(subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode)
        parts[name] = {
            "exit_code": codes[-1],
            "seconds": round(time.monotonic() - started),
            "commit": commit(),
            "command": f"python {' '.join(words)}",
        }
    claims = [Claim(claim=f"{name}: exit code", measured=part["exit_code"], aim=0, unit="exit code", at_most=True) for name, part in parts.items()]
    print(write("long", claims, command="make test-long", details={"parts": parts}))
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
