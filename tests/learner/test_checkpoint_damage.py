"""Whatever dies while a checkpoint is written, and whatever byte of one changes: an older one is there, and it is said aloud."""

import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_stores import DyingStore, HiddenStore, KilledError
from tiny_models import batch, config, learner, whole_weights

from learner.checkpoint import Checkpoints, Restored
from learner.checkpoint_files import MARKER, OWNER, PASSED_OVER
from learner.learner import Learner
from rlvr.config import Config, LearnerConfig
from rlvr.errors import LearnerError, UserError
from rlvr.records import Version
from rlvr.store import FolderStore, Store

pytestmark = pytest.mark.usefixtures("alone")


def trained(run: Config, store: Store, *, steps: int) -> Learner:
    """A learner that made a checkpoint after each of its steps."""
    ours = learner(run)
    checkpoints = Checkpoints(ours, store)
    for step in range(1, steps + 1):
        ours.train_step(batch(step=step))
        checkpoints.begin(ours.export())
    checkpoints.finish()
    return ours


def loaded(run: Config, store: Store) -> Restored:
    return Checkpoints(learner(run), store).load()


def come_back(folder: Path) -> None:
    """As if this checkpoint had never been passed over."""
    passed_over = folder / PASSED_OVER
    if passed_over.exists():
        passed_over.replace(folder / MARKER)


@pytest.fixture
def two(small: Path, tmp_path: Path) -> Path:
    """The newest checkpoint of a store with two of them."""
    trained(config(small), FolderStore(tmp_path), steps=2)
    return tmp_path / "checkpoints" / "step-000002"


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("is_hidden", [False, True], ids=["in place", "uploaded"])
def test_a_kill_between_any_two_changes_leaves_the_older_or_the_newer_checkpoint(
    small: Path, tmp_path: Path, is_hidden: bool, keep: int, recwarn: pytest.WarningsRecorder
) -> None:
    run = config(small, learner=LearnerConfig(keep=keep))
    before = tmp_path / "before"
    ours = trained(run, FolderStore(before), steps=2)
    ours.train_step(batch(step=3))
    found, last = set(), 0
    while True:
        root = tmp_path / f"killed-{last}"
        shutil.copytree(before, root)
        store = DyingStore(root, last=last, is_hidden=is_hidden)
        checkpoints = Checkpoints(ours, store)
        try:
            checkpoints.begin(ours.export())
            checkpoints.finish()
            break
        except KilledError:
            version = loaded(run, FolderStore(root)).version
            assert version in (Version(step=2), Version(step=3))
            found.add(version)
            trained(run, FolderStore(root), steps=1)  # and the next save finds its way
            last += 1
    assert found == {Version(step=2), Version(step=3)}
    assert last >= (10 if is_hidden else 3)


@pytest.mark.parametrize("store", [FolderStore, HiddenStore])
def test_a_changed_byte_in_any_file_falls_back_to_the_checkpoint_before(
    two: Path, small: Path, store: type[FolderStore], caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted(path for path in two.rglob("*") if path.is_file())
    assert {"checkpoint.json", ".metadata", "model.safetensors"} <= {path.name for path in files}
    for path in files:
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            caplog.clear()
            restored = loaded(config(small), store(two.parent.parent))
            assert (restored.version, [found.step for found in restored.damaged]) == (Version(step=1), [2])
            assert "checkpoint step=2 is damaged" in caplog.text
            come_back(two)
        path.write_bytes(whole)
    assert loaded(config(small), store(two.parent.parent)) == Restored(Version(step=2))


@pytest.mark.parametrize("store", [FolderStore, HiddenStore])
def test_a_file_that_is_missing_or_cut_falls_back_to_the_checkpoint_before(two: Path, small: Path, store: type[FolderStore]) -> None:
    for path in sorted(path for path in two.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        cut = loaded(config(small), store(two.parent.parent))
        come_back(two)
        path.unlink()
        missing = loaded(config(small), store(two.parent.parent))
        come_back(two)
        path.write_bytes(whole)
        for restored in (cut, missing):
            assert (restored.version, [found.step for found in restored.damaged]) == (Version(step=1), [2])
        assert path.name in missing.damaged[0].reason


def test_what_was_fallen_back_to_is_trained_from(two: Path, small: Path) -> None:
    (two / "model.safetensors").unlink()
    ours = learner(config(small))
    Checkpoints(ours, FolderStore(two.parent.parent)).load()
    other = learner(config(small))
    other.train_step(batch())
    assert all(torch.equal(weight, whole_weights(ours)[name]) for name, weight in whole_weights(other).items())


def test_where_all_are_damaged_nothing_starts_again_from_the_model(two: Path, small: Path) -> None:
    for folder in two.parent.iterdir():
        (folder / "state" / "__0_0.distcp").unlink()
    with pytest.raises(LearnerError, match=r"every checkpoint of the run is damaged.*step 2: .*__0_0.distcp.*step 1: "):
        loaded(config(small), FolderStore(two.parent.parent))


def test_an_empty_store_leaves_the_learner_at_its_model(small: Path, tmp_path: Path) -> None:
    assert loaded(config(small), FolderStore(tmp_path)) == Restored(None)
    assert [path.name for path in tmp_path.iterdir()] == [OWNER]


def test_a_damaged_checkpoint_is_never_counted_among_those_that_are_kept(two: Path, small: Path) -> None:
    store = FolderStore(two.parent.parent)
    (two / "config.json").write_text("{}")
    ours = learner(config(small))
    checkpoints = Checkpoints(ours, store)
    checkpoints.load()
    for step in (2, 3):
        ours.train_step(batch(step=step))
    checkpoints.begin(ours.export())
    checkpoints.finish()
    assert sorted(path.name for path in two.parent.iterdir()) == ["step-000001", "step-000003"]
    ours.train_step(batch(step=4))
    checkpoints.begin(ours.export())
    checkpoints.finish()
    assert sorted(path.name for path in two.parent.iterdir()) == ["step-000003", "step-000004"]


def test_a_damaged_checkpoint_whose_step_is_trained_again_counts_again(two: Path, small: Path) -> None:
    (two / "config.json").write_text("{}")
    ours = learner(config(small))
    checkpoints = Checkpoints(ours, FolderStore(two.parent.parent))
    checkpoints.load()
    for step in (2, 3):
        ours.train_step(batch(step=step))
        checkpoints.begin(ours.export())
    checkpoints.finish()
    assert sorted(path.name for path in two.parent.iterdir()) == ["step-000002", "step-000003"]


def test_a_load_removes_what_killed_saves_have_left(two: Path, small: Path) -> None:
    for name in (".step-000003.partial", ".step-000003.rank-0", ".step-000001.replaced"):
        (two.parent / name / "state").mkdir(parents=True)
        (two.parent / name / "state" / "file").write_text("half")
    loaded(config(small), FolderStore(two.parent.parent))
    assert sorted(path.name for path in two.parent.iterdir()) == ["step-000001", "step-000002"]


def test_a_checkpoint_that_was_passed_over_is_never_loaded_later(two: Path, small: Path) -> None:
    """A read error that was there once: the run trains step 2 anew, and dies before it has saved that."""
    (two / "model.safetensors").rename(two.parent / "elsewhere")
    assert loaded(config(small), FolderStore(two.parent.parent)).version == Version(step=1)
    (two.parent / "elsewhere").rename(two / "model.safetensors")
    restored = loaded(config(small), FolderStore(two.parent.parent))
    assert (restored.version, [found.step for found in restored.damaged]) == (Version(step=1), [2])
    assert "passed over" in restored.damaged[0].reason


def test_a_folder_of_another_step_than_its_markers_is_damaged(two: Path, small: Path) -> None:
    two.rename(two.with_name("step-000009"))
    restored = loaded(config(small), FolderStore(two.parent.parent))
    assert (restored.version, [found.step for found in restored.damaged]) == (Version(step=1), [9])
    assert "that of version 0.2" in restored.damaged[0].reason


def test_a_checkpoint_of_a_later_format_is_refused_and_left_alone(two: Path, small: Path) -> None:
    marker = two / "checkpoint.json"
    later = marker.read_text().replace('"format": 1', '"format": 2')
    marker.write_text(later)
    with pytest.raises(UserError, match=r"has format 2.*use a newer one"):
        loaded(config(small), FolderStore(two.parent.parent))
    assert marker.read_text() == later
