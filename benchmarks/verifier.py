"""What a verdict costs, and how often it is right: rows a second on one core, cold and cached, beside Math-Verify in the same run.

`python -m benchmarks.verifier --corpus verifier_cases.jsonl --peer-python PEER/bin/python` prints one JSON line and writes
benchmarks/results/verifier.json. Without the corpus its accuracy is not claimed, without a peer the ratios are not; both are then null.

The peer lives in an environment of its own: `python3 -m venv PEER && PEER/bin/pip install -r requirements/benchmarks.txt`.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.record import Claim, write
from rlvr.config import RewardConfig, VerifiersConfig
from rlvr.records import Unverified, Verdict, VerdictKind
from verifier.verify import Verifier

REPEATS = 3
NUM_INTEGERS, NUM_EXPRESSIONS = 3_000, 300
AIM_INTEGERS, AIM_EXPRESSIONS, AIM_CACHED = 20.0, 3.0, 200_000.0
AIM_PLAIN, AIM_POLICY, AIM_UNDER_ATTACK = 0.99, 0.97, 0.25
PEER = Path(__file__).with_name("verifier_peer.py")
Rows = Sequence[dict[str, object]]


class Arm(NamedTuple):
    """Rows a second of each repeat."""

    cold: list[float]
    cached: list[float]
    peer: list[float]


def integers() -> list[dict[str, object]]:
    draw = random.Random(1)
    numbers = [draw.randrange(-(10**6), 10**6) for _ in range(NUM_INTEGERS)]
    return [{"response": rf"Adding up gives \boxed{{{number + draw.choice((0, 0, 1))}}}.", "gold": str(number)} for number in numbers]


def expressions() -> list[dict[str, object]]:
    """Equal and unequal pairs that need algebra, each with constants of its own."""
    draw = random.Random(2)
    rows = []
    for _ in range(NUM_EXPRESSIONS):
        a, b, off = draw.randrange(2, 999), draw.randrange(2, 999), draw.choice((0, 0, 1))
        answer, gold = draw.choice(
            [
                (rf"\frac{{{a}+\sqrt{{{b}}}}}{{{a}}}", rf"1+\frac{{\sqrt{{{b}}}}}{{{a + off}}}"),
                (rf"(x+{a})(x-{b})", rf"x^2+{a - b}x-{a * b + off}"),
                (rf"\frac{{x^2-{a * a}}}{{x-{a}}}", rf"x+{a + off}"),
                (rf"\ln({a * b})", rf"\ln {a}+\ln {b + off}"),
            ]
        )
        rows.append({"response": rf"Simplified: $\boxed{{{answer}}}$", "gold": gold})
    return rows


def as_cases(rows: Rows) -> list[Unverified]:
    """Texts as they come off the wire: new objects, nothing about them known."""

    def fresh(text: object) -> str:
        return str(text).encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")

    return [
        Unverified(rollout_id=str(number), lease_id="l", problem_id="p", text=fresh(row["response"]), gold=fresh(row["gold"]))
        for number, row in enumerate(rows)
    ]


def rate(verifier: Verifier, cases: list[Unverified]) -> tuple[float, list[Verdict]]:
    began = time.perf_counter()
    verdicts = verifier.verify_many(cases)
    return len(cases) / (time.perf_counter() - began), verdicts


def measure(host: Verifier, rows: Rows, peer_python: str) -> tuple[Arm, list[Verdict], list[bool]]:
    """Interleaved repeats: ours with an empty memory, ours again, the peer."""
    arm, cases, verdicts, peers_word = Arm([], [], []), as_cases(rows), [], []
    for _ in range(REPEATS):
        fresh = Verifier(reward=RewardConfig(extract="all"), beside=host)
        cold, verdicts = rate(fresh, cases)
        arm.cold.append(cold)
        rate(fresh, cases)  # the first hit remembers the whole text
        many = [case for _ in range(max(1, 20_000 // len(cases))) for case in as_cases(rows)]
        arm.cached.append(rate(fresh, many)[0])
        if peer_python:
            seconds, peers_word = ask_peer(peer_python, rows)
            arm.peer.append(len(rows) / seconds)
    return arm, verdicts, peers_word


def ask_peer(python: str, rows: Rows) -> tuple[float, list[bool]]:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps({"response": row["response"], "gold": row["gold"]}) + "\n" for row in rows)
        file.flush()
        done = subprocess.run([python, str(PEER), file.name], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    return said["seconds"], said["correct"]


def under_attack(hostile: Rows) -> dict[str, float]:
    """Honest comparisons a second through two workers: alone, and while two threads send nothing but hostile rows."""
    with Verifier(VerifiersConfig(workers=2), RewardConfig(extract="all")) as host:
        stop, answered = threading.Event(), [0]

        def attack() -> None:
            while not stop.is_set():
                answered[0] += len(Verifier(reward=RewardConfig(extract="all"), beside=host).verify_many(as_cases(hostile)))

        honest = as_cases(expressions())
        alone = rate(Verifier(reward=RewardConfig(extract="all"), beside=host), honest)[0]
        attackers = [threading.Thread(target=attack) for _ in range(2)]
        for thread in attackers:
            thread.start()
        attacked = rate(Verifier(reward=RewardConfig(extract="all"), beside=host), honest)[0]
        stop.set()
        for thread in attackers:
            thread.join()
    return {"alone": round(alone, 1), "under_attack": round(attacked, 1), "share": round(attacked / alone, 3), "hostile_answered": answered[0]}


def hostile_rows(corpus: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    return [
        {field: row.get(field) or "".join(text * count for text, count in row.get(f"{field}_parts", [])) for field in ("response", "gold")}
        for row in rows
    ]


def ratio(arm: Arm) -> float | None:
    return round(statistics.median(mine / theirs for mine, theirs in zip(arm.cold, arm.peer, strict=True)), 2) if arm.peer else None


def accuracy(rows: Rows, said: Sequence[bool], *, policy: bool) -> float | None:
    right = [word == row["expected"] for row, word in zip(rows, said, strict=True) if row["policy"] == policy]
    return round(sum(right) / len(right), 5) if right else None


def quantiles(verdicts: Sequence[Verdict]) -> dict[str, float]:
    seconds = sorted(verdict.seconds for verdict in verdicts)
    if not seconds:
        return {}
    return {name: round(seconds[min(len(seconds) - 1, int(share * len(seconds)))], 6) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


def share(verdicts: Sequence[Verdict], test: "object") -> float | None:
    hits = [verdict for verdict in verdicts if verdict.stage == test or verdict.kind == test]
    return round(len(hits) / len(verdicts), 5) if verdicts else None


def accuracy_claims(rows: Rows, verdicts: Sequence[Verdict]) -> list[Claim]:
    said = [verdict.reward == 1.0 for verdict in verdicts]
    false_positives = sum(word and not row["expected"] and not row["policy"] for row, word in zip(rows, said, strict=True)) if rows else None
    return [
        Claim(claim="labelled rows without policy judged rightly", measured=accuracy(rows, said, policy=False), aim=AIM_PLAIN, unit="share"),
        Claim(claim="of them, wrong answers judged correct", measured=false_positives, aim=0, unit="rows", at_most=True),
        Claim(claim="labelled rows of a policy judged rightly", measured=accuracy(rows, said, policy=True), aim=AIM_POLICY, unit="share"),
        Claim(
            claim="labelled rows that ended as a timeout",
            measured=None if not rows else sum(v.kind is VerdictKind.TIMEOUT for v in verdicts),
            aim=0,
            unit="rows",
            at_most=True,
        ),
    ]


def run(corpus: Path | None, peer_python: str, hostile: Path | None) -> tuple[list[Claim], dict[str, object]]:
    labelled = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()] if corpus else []
    mixes: dict[str, Rows] = {"integers": integers(), "expressions": expressions()}
    if labelled:
        mixes |= {"labelled": labelled, "real_completions": [row for row in labelled if row["kind"] == "real_completion"]}
    began = time.perf_counter()
    with Verifier(VerifiersConfig(workers=1), RewardConfig(extract="all")) as host:
        start_s = time.perf_counter() - began
        measured = {name: measure(host, rows, peer_python) for name, rows in mixes.items()}
        stats = host.stats()
        layers = {layer.name: layer.works or layer.reason for layer in host.layers()}
    arms = {name: arm for name, (arm, _, _) in measured.items()}
    verdicts, peers_word = measured["labelled"][1:] if labelled else ([], [])
    cached = min(statistics.median(arms[name].cached) for name in ("integers", "expressions"))
    attacked = under_attack(hostile_rows(hostile)) if hostile else {}
    claims = [
        Claim(claim="integers, rows a second against the peer", measured=ratio(arms["integers"]), aim=AIM_INTEGERS, unit="x"),
        Claim(claim="expressions, rows a second against the peer", measured=ratio(arms["expressions"]), aim=AIM_EXPRESSIONS, unit="x"),
        Claim(claim="completions seen before, on one core", measured=round(cached), aim=AIM_CACHED, unit="rows/s"),
        *accuracy_claims(labelled, verdicts),
        Claim(
            claim="honest comparisons served under attack, of those served alone", measured=attacked.get("share"), aim=AIM_UNDER_ATTACK, unit="share"
        ),
    ]
    details = {
        "rows_per_second_one_core": {
            name: {part: [round(each, 1) for each in getattr(arm, part)] for part in Arm._fields} for name, arm in arms.items()
        },
        "rows": {name: len(rows) for name, rows in mixes.items()},
        "start_seconds": round(start_s, 3),
        "seconds_of_labelled_rows": quantiles(verdicts),
        "labelled_decided_in_parent": share(verdicts, "parent"),
        "labelled_undecided": share(verdicts, VerdictKind.UNDECIDED),
        "peer_on_labelled": {"plain": accuracy(labelled, peers_word, policy=False), "policy": accuracy(labelled, peers_word, policy=True)}
        if peers_word
        else None,
        "honest_rows_per_second": attacked,
        "workers_lost": stats.kills,
        "forks": stats.forks,
        "mean_seconds_to_a_ready_worker": round(stats.ready_seconds / max(1, stats.forks), 4),
        "layers": layers,
        "why_null": [f"no {name} given" for name, given in (("corpus", corpus), ("hostile rows", hostile), ("peer", peer_python)) if not given],
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    return claims, details


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and accuracy of the verifier.")
    parser.add_argument("--corpus", type=Path, default=None, help="labelled rows, JSONL")
    parser.add_argument("--peer-python", default="", help="a Python in which math-verify is installed")
    parser.add_argument("--hostile", type=Path, default=None, help="hostile rows, JSONL: honest answers are timed under their attack")
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # ours and the peer on one core
    claims, details = run(given.corpus, given.peer_python, given.hostile)
    words = [
        f"--{name} {name.upper()}"
        for name, value in (("corpus", given.corpus), ("hostile", given.hostile), ("peer-python", given.peer_python))
        if value
    ]
    print(write("verifier", claims, command=" ".join(["python -m benchmarks.verifier", *words]), details=details))


if __name__ == "__main__":
    main()
