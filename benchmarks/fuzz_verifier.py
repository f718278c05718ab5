"""Hostile text without end: spliced answers through extraction, grammar and comparison, until time is up.

`python -m benchmarks.fuzz_verifier --seconds 60 --seed 1`. Ends with status 1 and names the text when one raises, takes the parent over 50 ms
three times, or costs a worker; nothing is written.
"""

import argparse
import json
import random
import sys
import time
from typing import get_args

from rlvr.config import Grader, RewardConfig, VerifiersConfig
from rlvr.records import Unverified
from verifier.verify import Verifier

MAX_PARENT_S = 0.05
MAX_LENGTH = 4_096
BATCH = 64
GOLDS = ("5", r"\frac{64}{5}", r"\sqrt{2}", "x^2-1", r"(1,2]", r"\{1,2\}", "x>3", r"\text{no}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "12.8")
SIGNS = "0123456789xyzabeiC+-*/^_=<>()[]{}|,.;:!%$&~\\ '\"\n\t\u00bd\u2212\u221a\u00b2\u202e\u200b\ud800\0"
COMMANDS = r"""
\frac \sqrt \boxed \text \left \right \cdot \times \pm \infty \cup \cap \in \le \ge \ne \pi \theta \sin \cos \log \ln \sum \prod \binom
\begin{pmatrix} \end{pmatrix} \\ \overline \dot \degree ^\circ \mathbb{R} \emptyset \{ \} \langle \rangle \lfloor \rfloor \! \, {,}
10^{9} 9^{9^{9}} 1e308 0.333 x^2 2x 1/2 (a,b) 5! mod gcd( max( and or p.m. cm inches
"""
PIECES = (*SIGNS, *COMMANDS.split())


def invented(draw: random.Random) -> str:
    text = "".join(draw.choices(PIECES, k=draw.choice((3, 8, 20, 60, 400))))
    if draw.random() < 0.2:
        text = draw.choice(PIECES) * draw.randrange(2_000) + text
    text = text[:MAX_LENGTH]
    return rf"so \boxed{{{text}}}" if draw.random() < 0.8 else text


def is_slow(verifier: Verifier, rules: RewardConfig, case: Unverified, seconds: float) -> bool:
    """True when the parent takes too long on its own processor time too: the wall may be the machine's."""
    if seconds <= MAX_PARENT_S:
        return False
    fresh, began = Verifier(reward=rules, beside=verifier), time.thread_time()
    fresh.verify_many([case])
    return time.thread_time() - began > MAX_PARENT_S


def fuzz(verifier: Verifier, rules: RewardConfig, *, seconds: float, seed: int) -> tuple[int, list[str]]:
    """How many texts were judged, and what went wrong with which."""
    draw, faults, count = random.Random(seed), [], 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        cases = [Unverified(rollout_id="r", lease_id="l", problem_id="p", text=invented(draw), gold=draw.choice(GOLDS)) for _ in range(BATCH)]
        lost = sum(verifier.stats().kills.values())
        for case, verdict in zip(cases, verifier.verify_many(cases), strict=True):
            if verdict.kind.is_ours or (verdict.stage == "parent" and is_slow(verifier, rules, case, verdict.seconds)):
                faults.append(f"{verdict.kind} in {verdict.seconds:.3f} s: {json.dumps(case.text)} against {case.gold}")
        if sum(verifier.stats().kills.values()) > lost:
            faults.append(f"a worker was lost ({verifier.stats().kills}) by one of {json.dumps([case.text for case in cases])}")
        count += len(cases)
    return count, faults


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the verifier.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--grader", choices=get_args(Grader), default="firesteel")
    given = parser.parse_args()
    rules = RewardConfig(extract="all", grader=given.grader)
    with Verifier(VerifiersConfig(workers=1), rules) as verifier:
        count, faults = fuzz(verifier, rules, seconds=given.seconds, seed=given.seed)
        kinds = verifier.stats().kinds
    print(json.dumps({"seed": given.seed, "texts": count, "kinds": kinds, "faults": len(faults)}))
    for fault in faults[:20]:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
