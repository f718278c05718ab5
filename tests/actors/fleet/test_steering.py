"""Laws of `stop`, `scale` and `status`: a live run is found by its folder alone, and what cannot be done is one sentence and exit code 2."""

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from actors import cli
from actors.run.folder import RunAddress, RunFolder
from actors.run.lock import LOCK
from actors.run.resume import OpenRun, Start, open_run
from actors.run.service import Service
from rlvr.config import Config
from rlvr.errors import UserError

read_bytes = Path.read_bytes
COUNTS = {
    "capacity": 8,
    "slots": {"leased": 3},
    "accepted": 5,
    "consumed": 4,
    "held": 1,
    "dropped": {"stale": 0},
    "staleness_max_seen": 1,
}
STATUS = {
    "name": "r",
    "state": "training",
    "started": "2026-01-01T00:00:00.000+00:00",
    "step": 3,
    "num_steps": 9,
    "version": "1.3",
    "rollouts_per_second": 2.0,
    "seconds": 60.0,
    "actors": [{"role": "generator", "replica": "generator-0", "address": "127.0.0.1:1"}],
    "wanted": {"generator": 2, "verifier": 1},
    "restarts": {"queue": 4},
    "lineage": 1,
    "incarnation": 2,
    "epoch": 7,
    "receivers": ["generator-0#1.0"],
    "checkpoint": 2,
    "cost": {"usd": 1.5, "by_part": {"generator": 1.5}, "usd_per_million_trained": 375000.0},
    "queue": {
        "counts": COUNTS,
        "leases": [{"id": f"lease-{n}", "kind": "sampling", "worker": "generator-0#1", "members": 8, "age_s": 12.0} for n in range(22)],
    },
}


STARTED = str(STATUS["started"])


class Run:
    """A live run as the commands see it: its folder, its lock, and a controller that answers from a thread of its own."""

    def __init__(self, opened: OpenRun) -> None:
        self.opened = opened
        self.heard: list[Any] = []

    async def stop(self) -> dict[str, Any]:
        self.heard.append("stop")
        return {"state": "training"}

    async def scale(self, generators: int | None, verifiers: int | None) -> dict[str, Any]:
        if generators is not None and not 1 <= generators <= 4:
            raise UserError(f"generators.max is 4, got {generators}")
        self.heard.append((generators, verifiers))
        return {"wanted": {"generator": generators or 1, "verifier": verifiers or 1}}

    async def status(self) -> dict[str, Any]:
        return STATUS

    async def serve(self, stands: threading.Event, ends: asyncio.Event) -> None:
        service = Service(run="r", targets=lambda: (), status=self.status, stop=self.stop, scale=self.scale, registry=CollectorRegistry())
        await service.start("127.0.0.1", 0)
        self.opened.folder.write_address(
            RunAddress(ray_address="", namespace="", service=service.address, pid=1, started=STARTED, token=service.token)
        )
        stands.set()
        await ends.wait()
        await service.stop()


@pytest.fixture
def opened(tmp_path: Path) -> OpenRun:
    return open_run(Start(run_dir=tmp_path / "run"), Config())


@pytest.fixture
def live(opened: OpenRun) -> Iterator[Run]:
    run, loop, stands, ends = Run(opened), asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run.serve(stands, ends)))
    thread.start()
    assert stands.wait(10.0)
    yield run
    loop.call_soon_threadsafe(ends.set)
    thread.join()
    loop.close()


@pytest.fixture
def firesteel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; returns its exit code, what it printed and what it said on stderr."""
    monkeypatch.setenv("COLUMNS", "160")

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["firesteel", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return command


Firesteel = Callable[..., tuple[int, str, str]]


def test_a_live_run_is_stopped_and_scaled_through_its_folder(firesteel: Firesteel, live: Run) -> None:
    path = live.opened.folder.path
    assert firesteel("stop", path)[0] == 0
    code, printed, _ = firesteel("scale", path, "--generators", "3")
    assert (code, "3 generators, 1 verifier wanted" in printed) == (0, True)
    assert firesteel("scale", path, "--generators", "2", "--verifiers", "2")[0] == 0
    assert live.heard == ["stop", (3, None), (2, 2)]


def test_what_the_controller_refuses_is_the_commands_sentence(firesteel: Firesteel, live: Run) -> None:
    for number in ("0", "5", "-1"):
        code, _, said = firesteel("scale", live.opened.folder.path, "--generators", number)
        assert (code, said.count("\n")) == (2, 1)
        assert f"generators.max is 4, got {number}" in said
    assert live.heard == []


def test_scaling_to_nothing_named_is_refused(firesteel: Firesteel, live: Run) -> None:
    code, _, said = firesteel("scale", live.opened.folder.path)
    assert (code, said.count("\n"), "Give --generators N" in said) == (2, 1, True)


@pytest.mark.parametrize("words", [("stop",), ("scale", "--generators", "2")])
def test_what_cannot_be_steered_is_said_in_one_sentence(firesteel: Firesteel, opened: OpenRun, tmp_path: Path, words: tuple[str, ...]) -> None:
    def refused(path: Path) -> str:
        code, _, said = firesteel(words[0], path, *words[1:])
        assert (code, said.count("\n")) == (2, 1)
        return said

    assert "is no run folder" in refused(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = f"http://127.0.0.1:{server.getsockname()[1]}"
    opened.folder.write_address(RunAddress(ray_address="", namespace="", service=gone, pid=1, started=""))
    for said in (refused(opened.folder.path), firesteel("status", opened.folder.path)[1]):
        assert "does not answer: process" in said
        assert "heartbeat is 0 s old" in said
        assert "--resume must" in said
    opened.store.remove(LOCK)
    assert "does not answer" in refused(opened.folder.path)
    RunFolder(opened.folder.path).write_json("summary.json", {"stopped": "finished", "steps": 9})
    assert "the run is over: finished after 9 steps" in refused(opened.folder.path)


def test_another_run_on_a_dead_ones_port_is_not_taken_for_it(firesteel: Firesteel, live: Run) -> None:
    folder = live.opened.folder
    own = folder.address()
    assert own is not None
    folder.write_address(replace(own, started="2025-12-31T00:00:00+00:00", token="of a dead run"))
    code, printed, _ = firesteel("status", folder.path)
    assert (code, "does not answer: process" in printed, "step 3 of 9" in printed) == (0, True, False)
    assert json.loads(firesteel("status", folder.path, "--json")[1])["live"] is None
    for words in (("stop", folder.path), ("scale", folder.path, "--generators", "3")):
        code, _, said = firesteel(*words)
        assert (code, said.count("\n"), "does not answer: process" in said, "token" in said) == (2, 1, True, False)
    assert live.heard == []


def answer_otherwise(listening: socket.socket) -> None:
    for _ in range(2):
        caller, _ = listening.accept()
        with caller:
            caller.recv(65536)
            caller.sendall(b"\x00\x00\x12 no HTTP\r\n\r\n")


def test_who_speaks_no_http_on_a_dead_runs_port_is_not_the_run(firesteel: Firesteel, opened: OpenRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = f"http://127.0.0.1:{listening.getsockname()[1]}"
        opened.folder.write_address(RunAddress(ray_address="", namespace="", service=place, pid=1, started=STARTED))
        thread = threading.Thread(target=answer_otherwise, args=(listening,))
        thread.start()
        code, printed, _ = firesteel("status", opened.folder.path)
        assert (code, "does not answer" in printed) == (0, True)
        code, _, said = firesteel("stop", opened.folder.path)
        assert (code, "does not answer" in said) == (2, True)
        thread.join()


def refuse_to_read(path: Path) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize("fault", ["another user's", "torn", "empty"])
@pytest.mark.parametrize("words", [("status",), ("stop",), ("scale", "--generators", "2")])
def test_an_address_that_cannot_be_read_is_one_sentence(
    firesteel: Firesteel, opened: OpenRun, monkeypatch: pytest.MonkeyPatch, fault: str, words: tuple[str, ...]
) -> None:
    file = opened.folder.path / "run.json"
    file.write_text('{"ray_address": "' if fault == "torn" else "")
    if fault == "another user's":
        monkeypatch.setattr(Path, "read_bytes", lambda path: refuse_to_read(path) if path == file else read_bytes(path))
    code, _, said = firesteel(words[0], opened.folder.path, *words[1:])
    assert (code, said.count("\n")) == (2, 1)
    assert f"{file} cannot be read" in said
    assert ("another user's" in said) == (fault == "another user's")


def test_status_shows_leases_epoch_lineage_and_who_is_missing(firesteel: Firesteel, live: Run) -> None:
    code, printed, _ = firesteel("status", live.opened.folder.path)
    assert code == 0
    for words in (
        "generator 1 of 2, verifier 0 of 1",
        "lineage",
        "queue incarnation",
        "7: generator-0#1.0",
        "step 2",
        "queue 4",
        "lease-19",
        "and 2 more leases",
    ):
        assert words in printed
    assert "lease-20" not in printed


def test_status_as_json_is_what_the_controller_says(firesteel: Firesteel, live: Run) -> None:
    _, printed, _ = firesteel("status", live.opened.folder.path, "--json")
    assert json.loads(printed)["live"] == STATUS


def test_a_resume_is_must_or_auto(firesteel: Firesteel, tmp_path: Path) -> None:
    code, _, said = firesteel("run", tmp_path / "run.toml", "--resume", "maybe")
    assert (code, "must or auto, got 'maybe'" in said) == (2, True)
