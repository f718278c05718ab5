"""The hostile corpus: every row answered in time, none judged correct, nothing left behind, honest answers served meanwhile."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from watched import watch

from rlvr.config import RewardConfig
from rlvr.records import Unverified, VerdictKind
from verifier.verify import Verifier

pytestmark = pytest.mark.processes

MAX_WALL_S = 2.0
MAX_RSS_MIB = 1024
CANARY = "firesteel_canary"


@pytest.fixture(scope="module")
def hostile(shared: Path) -> list[dict[str, object]]:
    """The rows, their parts expanded: `response`, `gold`, `must`."""
    rows = [json.loads(line) for line in (shared / "verifier_hostile.jsonl").read_text().splitlines()]
    return [row | {field: expanded(row, field) for field in ("response", "gold")} for row in rows]


def expanded(row: dict[str, object], field: str) -> str:
    parts = row.get(f"{field}_parts")
    if parts is None:
        return str(row[field])
    assert isinstance(parts, list)
    return "".join(text * count for text, count in parts)


def canaries() -> set[str]:
    """Files and processes that an attack would have made."""
    folders = [Path("/tmp"), Path("/"), Path("/dev/shm"), Path.home(), Path.cwd()]
    files = {str(path) for folder in folders for path in folder.glob(f"*{CANARY}*")}
    return files | {line for line in command_lines() if CANARY in line}


def command_lines() -> Iterator[str]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                yield Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue


def test_the_command_answers_every_hostile_row_in_order_in_time_in_memory_and_without_a_trace(
    hostile: list[dict[str, object]], tmp_path: Path
) -> None:
    before = canaries()
    cases, out = tmp_path / "cases.jsonl", tmp_path / "verdicts.jsonl"
    cases.write_text("".join(json.dumps({field: row[field] for field in ("id", "response", "gold")}) + "\n" for row in hostile))
    code = (
        "import sys\nfrom pathlib import Path\nfrom verifier.cases import verify_file\nverify_file(Path(sys.argv[1]), Path(sys.argv[2]), workers=2)"
    )
    command = watch([sys.executable, "-c", code, str(cases), str(out)])
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert command.code == 0
    assert [verdict["id"] for verdict in verdicts] == [row["id"] for row in hostile]
    assert max(verdict["seconds"] for verdict in verdicts) < MAX_WALL_S
    assert 20 < command.max_rss_mib < MAX_RSS_MIB
    assert command.sockets == set()
    assert command.samples > 20
    wrongly = [row["id"] for row, verdict in zip(hostile, verdicts, strict=True) if verdict["reward"] == 1.0 and must(row) == "not_correct"]
    assert wrongly == []
    assert canaries() == before


def test_the_watch_sees_memory_and_sockets_of_grandchildren() -> None:
    child = (
        "import socket, time; waiting = socket.create_server(('127.0.0.1', 0));"
        "held = bytearray(300 << 20); held[::4096] = bytes(76800); time.sleep(0.5)"
    )
    seen = watch([sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"])
    assert seen.code == 0
    assert 300 < seen.max_rss_mib < 500
    assert any(socket.startswith("tcp 0100007F:") for socket in seen.sockets)
    quiet = watch([sys.executable, "-c", "import time; time.sleep(0.3)"])
    assert (quiet.code, quiet.sockets) == (0, set())
    assert quiet.max_rss_mib < 100


def must(row: dict[str, object]) -> object:
    duty = row["must"]
    assert isinstance(duty, dict)
    return duty["verdict"]


def test_hostile_rows_hardly_ever_cost_a_worker(hostile: list[dict[str, object]], verifier: Verifier) -> None:
    before = sum(verifier.stats().kills.values())
    verifier.verify_many(as_cases(hostile))
    assert sum(verifier.stats().kills.values()) - before <= 0.05 * len(hostile)


def as_cases(rows: list[dict[str, object]]) -> list[Unverified]:
    return [Unverified(rollout_id=str(row["id"]), lease_id="l", problem_id="p", text=str(row["response"]), gold=str(row["gold"])) for row in rows]


def honest_cases(first: int, count: int) -> list[Unverified]:
    numbers = range(first, first + count)
    pairs = [(rf"\boxed{{\frac{{\sqrt{{{number}}}}}{{{number}}}}}", rf"\frac{{1}}{{\sqrt{{{number}}}}}") for number in numbers]
    return [Unverified(rollout_id=str(number), lease_id="l", problem_id="p", text=text, gold=gold) for number, (text, gold) in enumerate(pairs)]


def test_honest_answers_are_served_while_every_worker_is_under_attack(hostile: list[dict[str, object]], verifier: Verifier) -> None:
    alone = timed(verifier, honest_cases(10_001, 60))
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():  # with an empty memory each time, so that the workers are asked
            Verifier(reward=RewardConfig(extract="all"), beside=verifier).verify_many(as_cases(hostile))

    attackers = [threading.Thread(target=attack) for _ in range(2)]
    for thread in attackers:
        thread.start()
    under_attack = timed(verifier, honest_cases(20_001, 60))
    stop.set()
    for thread in attackers:
        thread.join()
    assert under_attack < 100 * alone + 10.0


def timed(verifier: Verifier, cases: list[Unverified]) -> float:
    started = time.perf_counter()
    assert {verdict.kind for verdict in verifier.verify_many(cases)} == {VerdictKind.CORRECT}
    return time.perf_counter() - started


def test_the_labelled_corpus_is_judged_rightly_while_workers_are_killed(shared: Path, verifier: Verifier) -> None:
    rows = [json.loads(line) for line in (shared / "verifier_cases.jsonl").read_text().splitlines()]
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.1):
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(verifier.worker_pids[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    verdicts = verifier.verify_many(as_cases(rows))
    stop.set()
    killer.join()
    plain = [(row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if not row["policy"]]
    assert [row["id"] for row, verdict in plain if verdict.reward == 1.0 and not row["expected"]] == []
    assert sum((verdict.reward == 1.0) == row["expected"] and not verdict.kind.is_ours for row, verdict in plain) >= 0.99 * len(plain)
