"""Math-Verify over the rows of a file, timed; run by a Python of its own where that package is installed (`pip install "math-verify[antlr4_13_2]"`).

Reads {"response", "gold"} a line from the file named first, prints one JSON line: seconds for all rows, and which it calls correct. It imports
nothing of ours.
"""

import json
import logging
import sys
import time

from math_verify import parse, verify


def judge(gold: str, response: str) -> bool:
    try:
        return bool(verify(parse(f"${gold}$"), parse(response)))
    except Exception:  # noqa: BLE001 - whatever the peer raises is its verdict: not correct
        return False


def main() -> None:
    logging.disable(logging.CRITICAL)
    with open(sys.argv[1], encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    judge("1", r"\boxed{1}")
    began = time.perf_counter()
    correct = [judge(row["gold"], row["response"]) for row in rows]
    print(json.dumps({"seconds": time.perf_counter() - began, "correct": correct}))


if __name__ == "__main__":
    main()
