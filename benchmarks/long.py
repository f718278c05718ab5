"""`make test-long`: what takes longer than CI has, one after the other, and what came of each.

Runs the tests marked `long`, five seeds of the demo and its controls; writes benchmarks/results/long.json. Exit code 1 where one of them fails.
"""

import argparse
import subprocess
import sys
import time

from benchmarks.record import ROOT, Claim, write

PARTS = {
    "long tests": ["-m", "pytest", "tests", "-m", "long"],
    "five seeds of the demo": ["-m", "recipes.demo", "--seeds", "0,1,2,3,4"],
    "the demo's controls": ["-m", "recipes.demo", "--controls", "--seed", "0"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="run one part; nothing is written then")
    only = parser.parse_args().only
    chosen = {name: words for name, words in PARTS.items() if only in (None, name)}
    claims, seconds = [], {}
    for name, words in chosen.items():
        print(f"--- {name}: python {' '.join(words)}", flush=True)
        started = time.monotonic()
        code = subprocess.run([sys.executable, *words], cwd=ROOT, check=False).returncode
        seconds[name] = round(time.monotonic() - started)
        claims.append(Claim(claim=f"{name}: exit code", measured=code, aim=0, unit="exit code", at_most=True))
    if only is None:
        print(write("long", claims, command="make test-long", details={"seconds": seconds}))
    return int(not all(claim.holds for claim in claims))


if __name__ == "__main__":
    sys.exit(main())
