"""Which versions enter the log, and that training does not wait for them."""

import threading
from pathlib import Path

import pytest
import torch

from actors.version_writer import VersionWriter
from learner import version_log
from learner.weight_codec import digest
from rlvr.errors import StoreError
from rlvr.records import Version
from rlvr.store import FolderStore

TENSORS = {"weight": torch.ones(3, dtype=torch.bfloat16)}


class GatedStore(FolderStore):
    """Uploads wait for a gate."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.has_begun = threading.Event()

    def upload(self, file: Path, name: str) -> None:
        self.has_begun.set()
        self.gate.wait()
        super().upload(file, name)


class FullStore(FolderStore):
    def upload(self, file: Path, name: str) -> None:
        raise StoreError(f"{name}: write: No space left on device")


def log(writer: VersionWriter, *steps: int, keep: bool = False) -> None:
    for step in steps:
        writer.log(Version(step=step), TENSORS, digest(TENSORS), keep)


def steps_in(store: FolderStore) -> list[int]:
    return [version.step for version in version_log.versions(store)]


@pytest.mark.parametrize(("every_steps", "logged"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (0, [])])
def test_every_so_manieth_version_is_logged(tmp_path: Path, every_steps: int, logged: list[int]) -> None:
    seconds: list[float] = []
    writer = VersionWriter(FolderStore(tmp_path), every_steps=every_steps, observe=seconds.append)
    for step in range(5):
        log(writer, step)
        writer.finish()
    assert steps_in(FolderStore(tmp_path)) == logged
    assert len(seconds) == len(logged)


def test_a_kept_version_is_in_the_log_when_it_is_announced(tmp_path: Path) -> None:
    writer = VersionWriter(FolderStore(tmp_path), every_steps=0, observe=lambda _: None)
    log(writer, 3, keep=True)
    assert steps_in(FolderStore(tmp_path)) == [3]


def test_a_version_is_left_out_while_the_one_before_it_is_written(tmp_path: Path) -> None:
    store = GatedStore(tmp_path)
    writer = VersionWriter(store, every_steps=1, observe=lambda _: None)
    log(writer, 1)
    assert store.has_begun.wait(10.0)
    log(writer, 2, 3)  # returns at once, though nothing can be written
    assert steps_in(store) == []
    store.gate.set()
    log(writer, 4, keep=True)
    assert steps_in(store) == [1, 4]


@pytest.mark.parametrize("keep", [False, True])
def test_a_log_that_cannot_be_written_is_said_aloud_and_ends_nothing(tmp_path: Path, keep: bool, caplog: pytest.LogCaptureFixture) -> None:
    seconds: list[float] = []
    writer = VersionWriter(FullStore(tmp_path), every_steps=1, observe=seconds.append)
    log(writer, 1, keep=keep)
    writer.finish()
    assert "version=0.1 is not in the version log" in caplog.text
    assert seconds == []
