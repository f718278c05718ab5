"""A learner that was given up may still live and see the store: it changes nothing of what the next one has; nor does a store that hangs hold one."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint_stores import SlowStore, TakenStore
from tiny_models import batch, config, learner

from learner.checkpoint import Checkpoints
from learner.checkpoint_files import MARKER
from learner.checkpoint_report import Saved, SaveFailed
from learner.learner import Learner
from rlvr.config import LearnerConfig
from rlvr.errors import LearnerError
from rlvr.records import Version
from rlvr.store import FolderStore

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowStore]:
    store = SlowStore(tmp_path)
    yield store
    store.may_go_on.set()


def saved(ours: Learner, checkpoints: Checkpoints) -> None:
    checkpoints.begin(ours.export())
    checkpoints.finish()


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").iterdir())


def test_a_learner_writes_no_checkpoint_after_another_one_has_loaded(small: Path, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    zombie, ours = learner(config(small)), learner(config(small))
    of_zombie, checkpoints = Checkpoints(zombie, store), Checkpoints(ours, store)
    of_zombie.load()
    checkpoints.load()
    for step in (1, 2):
        ours.train_step(batch(step=step))
        saved(ours, checkpoints)
    zombie.train_step(batch(step=1))
    with pytest.raises(LearnerError, match=r"another learner .* has loaded"):
        saved(zombie, of_zombie)
    assert folders(tmp_path) == ["step-000001", "step-000002"]
    assert Checkpoints(ours, store).load().version == Version(step=2)


def test_two_attempts_at_one_step_share_no_file(small: Path, slow: SlowStore) -> None:
    """The first is past its last look at the owner when the second one loads, saves the same step, and is whole."""
    zombie, ours = learner(config(small)), learner(config(small))
    of_zombie = Checkpoints(zombie, slow)
    of_zombie.load()
    zombie.train_step(batch(step=1))
    of_zombie.begin(zombie.export())
    ends = time.monotonic() + 60.0
    while not list(slow.root.glob("checkpoints/.step-000001.*.partial/state/.metadata")):
        assert time.monotonic() < ends
        time.sleep(0.01)
    store = FolderStore(slow.root)
    checkpoints = Checkpoints(ours, store)
    checkpoints.load()
    ours.begin_lineage(Version(lineage=1, step=0))
    ours.train_step(batch(step=1, lineage=1))
    saved(ours, checkpoints)
    slow.may_go_on.set()
    with pytest.raises(LearnerError, match=r"another learner .* has loaded"):
        of_zombie.finish()
    restored = Checkpoints(ours, store).load()
    assert (restored.version, restored.damaged) == (Version(lineage=1, step=1), ())


@pytest.mark.parametrize(("after", "marked"), [("step-000002", ["step-000001"]), (f"step-000002/{MARKER}", ["step-000001", "step-000002"])])
def test_who_is_overtaken_in_the_middle_of_a_save_sets_no_marker_and_prunes_nothing(
    small: Path, tmp_path: Path, after: str, marked: list[str]
) -> None:
    ours = learner(config(small, learner=LearnerConfig(keep=1)))
    checkpoints = Checkpoints(ours, TakenStore(tmp_path, after=after))
    checkpoints.load()
    ours.train_step(batch(step=1))
    saved(ours, checkpoints)
    ours.train_step(batch(step=2))
    with pytest.raises(LearnerError, match=r"another learner .* has loaded"):
        saved(ours, checkpoints)
    assert [name for name in folders(tmp_path) if (tmp_path / "checkpoints" / name / MARKER).exists()] == marked


def test_a_store_that_hangs_ends_the_learner_and_is_reported(small: Path, slow: SlowStore) -> None:
    ours = learner(config(small))
    told: list[Saved | SaveFailed] = []
    checkpoints = Checkpoints(ours, slow, report=told.append, deadline_s=0.2)
    checkpoints.begin(ours.export())
    with pytest.raises(LearnerError, match=r"version 0\.0 failed: it is not written after 0 s: the store hangs"):
        checkpoints.finish()
    assert [type(news) for news in told] == [SaveFailed]
    slow.may_go_on.set()
    ends = time.monotonic() + 60.0
    while len(told) < 2:  # the thread of this test's learner ends before the test does
        assert time.monotonic() < ends
        time.sleep(0.01)
