"""An engine's sockets do not outlive it for long, and nobody takes those of a living one away."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from actors import engine_sockets


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


MAKE = "import tempfile; tempfile.tempdir = {folder!r}; from actors import engine_sockets; print(engine_sockets.make(), flush=True); {end}"


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
        engine_sockets.sweep()
        assert (folder / "a-socket").exists()
        process.kill()
        process.wait()
        engine_sockets.sweep()
        assert not folder.exists()


@pytest.mark.processes
def test_an_engine_that_ends_by_itself_leaves_no_folder(tmp_path: Path) -> None:
    process, folder = make_elsewhere(tmp_path, "pass")
    with process:
        process.wait()
    assert not folder.exists()


def test_a_folder_that_is_being_made_stays(tmp_path: Path) -> None:
    making = tmp_path / f"{engine_sockets.PREFIX}new"
    making.mkdir()
    engine_sockets.sweep()
    assert making.exists()


def test_two_engines_of_one_process_have_folders_of_their_own() -> None:
    first, second = engine_sockets.make(), engine_sockets.make()
    assert first != second
    assert first.exists()
