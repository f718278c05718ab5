"""An engine's sockets and shared memory do not outlive it for long, and nobody takes those of a living one away."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_under_test import tiny

from actors.engine import sockets
from benchmarks.chaos_parts.processes import below, held, is_alive, look, scan, shared_memory


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


MAKE = "import tempfile; tempfile.tempdir = {folder!r}; from actors.engine import sockets; print(sockets.make(), flush=True); {end}"


def make_elsewhere(tmp_path: Path, end: str) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE.format(folder=str(tmp_path), end=end)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.processes
def test_the_folder_of_a_living_engine_stays_and_that_of_a_killed_one_goes(tmp_path: Path) -> None:
    process, folder = make_elsewhere(tmp_path, "input()")
    with process:
        (folder / "a-socket").touch()
        sockets.sweep()
        assert (folder / "a-socket").exists()
        process.kill()
        process.wait()
        sockets.sweep()
        assert not folder.exists()


@pytest.mark.processes
def test_an_engine_that_ends_by_itself_leaves_no_folder(tmp_path: Path) -> None:
    process, folder = make_elsewhere(tmp_path, "pass")
    with process:
        process.wait()
    assert not folder.exists()


HOLD = """
import multiprocessing, os, tempfile
from multiprocessing import resource_tracker
tempfile.tempdir = {folder!r}
from actors.engine import sockets
os.environ["ENGINE_FOLDER"] = str(sockets.make())
resource_tracker.ensure_running()
print(os.environ["ENGINE_FOLDER"], resource_tracker._resource_tracker._pid, flush=True)
multiprocessing.get_context("spawn").Process(target=exec, args=({child!r},)).start()
input()
"""
CHILD = "import multiprocessing, os, time; lock = multiprocessing.Lock(); print(os.getpid(), lock._semlock.name, flush=True); time.sleep(600)"


@pytest.mark.processes
def test_a_semaphore_of_an_engine_goes_when_all_of_its_processes_are_killed_and_not_before(tmp_path: Path) -> None:
    script = HOLD.format(folder=str(tmp_path), child=CHILD)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        folder, tracker = process.stdout.readline().split()
        child, name = process.stdout.readline().split()
        semaphore = sockets.SHARED_MEMORY / f"sem.{name.removeprefix('/')}"
        sockets.sweep()
        assert semaphore.exists()
        os.kill(int(tracker), signal.SIGKILL)  # as it dies with the group of a killed actor
        process.kill()
        process.wait()
        sockets.sweep()
        assert semaphore.exists()
        assert Path(folder).exists()
        os.kill(int(child), signal.SIGKILL)
        until(lambda: look(int(child)) is None)
        sockets.sweep()
        assert not semaphore.exists()
        assert not Path(folder).exists()


ENGINE = """
import asyncio, tempfile
tempfile.tempdir = {folder!r}
from actors.engine.engine import Engine, EngineSettings

async def live():
    settings = EngineSettings(
        model={model!r}, device="cpu", dtype="float32", tensor_parallel={parallel}, max_num_seqs=4, max_model_len=64, kv_cache_gib=0.0625
    )
    engine = await Engine.start(settings)
    print("up", flush=True)
    await asyncio.to_thread(input)

asyncio.run(live())
"""
OF_CPU_WORKERS = "/dev/shm/vllm_dist_"
"""vLLM's own kernels make these for workers that share a CPU, which a run file may not ask for: they stand in for the workers of several GPUs."""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a short path: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="fs-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.mark.engine
@pytest.mark.long
@pytest.mark.parametrize("parallel", [1, 2])
def test_an_engine_whose_processes_are_killed_leaves_nothing_in_shared_memory(short: Path, parallel: int) -> None:
    tiny(tied=False).save_pretrained(short / "model")
    script = ENGINE.format(folder=str(short), model=str(short / "model"), parallel=parallel)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        assert process.stdout is not None
        assert any(line == "up\n" for line in process.stdout)
        everyone = scan()
        family = [everyone[process.pid], *below(process.pid, everyone)]
        mapped = held(family)
        files = [name for inode, name in shared_memory().items() if inode in mapped]
        os.killpg(process.pid, signal.SIGKILL)
        until(lambda: not any(is_alive(one) for one in family))
    sockets.sweep()
    left = [name for name in files if Path(name).exists()]
    for name in left:
        Path(name).unlink()
    assert len([name for name in files if "/sem." in name]) >= parallel
    assert [name for name in left if not name.startswith(OF_CPU_WORKERS)] == []


def until(is_true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20.0
    while not is_true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_folder_that_is_being_made_stays(tmp_path: Path) -> None:
    making = tmp_path / f"{sockets.PREFIX}new"
    making.mkdir()
    sockets.sweep()
    assert making.exists()


def test_two_engines_of_one_process_have_folders_of_their_own() -> None:
    first, second = sockets.make(), sockets.make()
    assert first != second
    assert first.exists()
