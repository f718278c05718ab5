"""What is published and what is saved: names, bits, round trips, and nothing half-written."""

import re
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from checkpoint_stores import FullStore, HiddenStore, SlowStore
from safetensors import safe_open
from tiny_models import batch, config, learner, llama, save, tokenizer, whole_weights
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from learner.checkpoint import Checkpoints
from learner.checkpoint_files import OWNER
from learner.checkpoint_report import Saved, SaveFailed
from learner.learner import Learner
from rlvr.config import LearnerConfig, RunConfig
from rlvr.errors import LearnerError, UserError
from rlvr.records import Version
from rlvr.store import FolderStore, Store

pytestmark = pytest.mark.usefixtures("alone")


def save_now(ours: Learner, store: Store) -> None:
    checkpoints = Checkpoints(ours, store)
    checkpoints.begin(ours.export())
    checkpoints.finish()


def load_now(ours: Learner, store: Store) -> Version | None:
    return Checkpoints(ours, store).load().version


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(weight, second[name]) for name, weight in first.items())


def names_in(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


@pytest.fixture
def deterministic() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@contextmanager
def disk_of(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond that: a write then fails as on a full disk, in torch's writer as in safetensors'."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("which", ["small", "small_tied", "llama"])
def test_published_names_are_those_of_the_checkpoint(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = save(llama(), tmp_path / "llama") if which == "llama" else request.getfixturevalue(which)
    published = learner(config(folder)).export()
    assert published is not None
    assert published.keys() == names_in(folder)
    assert ("lm_head.weight" in published) == (which != "small_tied")


def test_published_weights_are_the_masters_rounded_to_bf16(small: Path) -> None:
    ours = learner(config(small))
    ours.train_step(batch())
    published, masters = ours.export(), whole_weights(ours)
    assert published is not None
    for name, tensor in published.items():
        assert (tensor.dtype, tensor.device.type, tensor.is_contiguous()) == (torch.bfloat16, "cpu", True)
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert torch.equal(tensor, masters[name].to(torch.bfloat16))
    ours.train_step(batch(step=2))
    assert all(torch.equal(tensor, masters[name].to(torch.bfloat16)) for name, tensor in published.items())  # a later step leaves it alone


@pytest.mark.parametrize("which", ["small", "small_tied"])
def test_transformers_loads_a_checkpoint_back(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    ours = learner(config(request.getfixturevalue(which)))
    ours.train_step(batch())
    save_now(ours, FolderStore(tmp_path))
    folder = tmp_path / "checkpoints" / "step-000001"
    model = AutoModelForCausalLM.from_pretrained(folder)
    published = ours.export()
    assert published is not None
    assert model.dtype == torch.bfloat16
    assert names_in(folder) == published.keys()
    assert all(torch.equal(weight, published[name]) for name, weight in model.named_parameters())
    assert model.generation_config.eos_token_id == 1
    assert AutoTokenizer.from_pretrained(folder)("6+5=?").input_ids == tokenizer()("6+5=?").input_ids


def test_a_checkpoint_is_a_model_to_start_from(small: Path, tmp_path: Path) -> None:
    first = learner(config(small))
    first.train_step(batch())
    save_now(first, FolderStore(tmp_path))
    second = learner(config(tmp_path / "checkpoints" / "step-000001"))
    ours, theirs = first.export(), second.export()
    assert ours is not None
    assert theirs is not None
    assert same(ours, theirs)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_killed_and_resumed_training_is_uninterrupted_training_bit_for_bit(
    small_tied: Path, tmp_path: Path, deterministic: None, schedule: str
) -> None:
    run = config(
        small_tied,
        optimizer={"updates_per_step": 2, "schedule": schedule, "warmup_steps": 4},
        objective={"kl_coef": 0.1},
        run=RunConfig(deterministic=True, num_steps=6),
    )
    whole = learner(run)
    reports = [whole.train_step(batch(step=step)) for step in range(1, 7)]
    killed = learner(run)
    for step in (1, 2, 3):
        killed.train_step(batch(step=step))
    save_now(killed, FolderStore(tmp_path))
    torch.manual_seed(4711)  # another process has another state of torch's random numbers
    resumed = learner(run)
    assert load_now(resumed, FolderStore(tmp_path)) == Version(step=3)
    again = [resumed.train_step(batch(step=step)) for step in (4, 5, 6)]
    assert [(r.loss, r.grad_norm, r.learning_rate) for r in again] == [(r.loss, r.grad_norm, r.learning_rate) for r in reports[3:]]
    assert same(whole_weights(whole), whole_weights(resumed))


def test_a_step_without_rollouts_before_the_checkpoint_changes_nothing_of_that(small: Path, tmp_path: Path) -> None:
    first = learner(config(small))
    first.train_step(batch(step=1))
    empty = batch(step=2, num=0)
    first.train_step(empty)
    save_now(first, FolderStore(tmp_path))
    second = learner(config(small))
    load_now(second, FolderStore(tmp_path))
    for ours in (first, second):
        ours.train_step(batch(step=3))
    assert same(whole_weights(first), whole_weights(second))


def test_a_checkpoint_of_the_untrained_policy_resumes_too(small: Path, tmp_path: Path) -> None:
    first = learner(config(small))
    save_now(first, FolderStore(tmp_path))
    second = learner(config(small))
    assert load_now(second, FolderStore(tmp_path)) == Version()
    for ours in (first, second):
        ours.train_step(batch())
    assert same(whole_weights(first), whole_weights(second))


def test_where_the_store_is_another_hosts_the_checkpoint_is_the_same_and_nothing_stays_here(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    ours = learner(config(small))
    ours.train_step(batch())
    save_now(ours, FolderStore(tmp_path / "here"))
    save_now(ours, HiddenStore(tmp_path / "there"))
    trees = [{path.relative_to(root): path.stat().st_size for path in root.rglob("*")} for root in (tmp_path / "here", tmp_path / "there")]
    assert trees[0].keys() == trees[1].keys()
    resumed = learner(config(small))
    assert load_now(resumed, HiddenStore(tmp_path / "there")) == Version(step=1)
    assert same(whole_weights(ours), whole_weights(resumed))
    assert list(scratch.iterdir()) == []


def test_training_goes_on_while_the_checkpoint_of_an_earlier_state_is_written(small: Path, tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    ours = learner(config(small))
    ours.train_step(batch())
    at_checkpoint = whole_weights(ours)
    told: list[Saved | SaveFailed] = []
    checkpoints = Checkpoints(ours, store, report=told.append)
    checkpoints.begin(ours.export())
    for step in (2, 3):
        ours.train_step(batch(step=step))  # nothing of the checkpoint has its name before this is done
    assert (told, store.changes) == ([], [])
    store.may_go_on.set()
    checkpoints.finish()
    assert [saved.version for saved in told] == [Version(step=1)]
    assert isinstance(told[0], Saved)
    assert 0.0 < told[0].pause_s < told[0].seconds
    resumed = learner(config(small))
    assert load_now(resumed, store) == Version(step=1)
    assert same(whole_weights(resumed), at_checkpoint)
    assert not same(whole_weights(resumed), whole_weights(ours))


def test_checkpoints_are_written_one_after_the_other_and_the_marker_comes_last(small: Path, tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    store.may_go_on.set()
    ours = learner(config(small))
    checkpoints = Checkpoints(ours, store)
    for step in (1, 2):
        ours.train_step(batch(step=step))
        checkpoints.begin(ours.export())
    checkpoints.finish()
    folders = [f"checkpoints/step-{step:06d}" for step in (1, 2)]
    assert store.changes == [name for folder in folders for name in (folder, f"{folder}/checkpoint.json")]
    assert checkpoints.newest == Version(step=2)


def test_only_the_newest_checkpoints_are_kept_and_other_folders_stay(small: Path, tmp_path: Path) -> None:
    ours = learner(config(small, learner=LearnerConfig(keep=2)))
    folder = tmp_path / "checkpoints"
    (folder / "notes").mkdir(parents=True)
    told: list[Saved | SaveFailed] = []
    checkpoints = Checkpoints(ours, FolderStore(tmp_path), report=told.append)
    for step in (1, 2, 3):
        ours.train_step(batch(step=step))
        checkpoints.begin(ours.export())
    checkpoints.finish()
    assert sorted(path.name for path in folder.iterdir()) == ["notes", "step-000002", "step-000003"]
    assert [saved.kept for saved in told if isinstance(saved, Saved)] == [(1,), (1, 2), (2, 3)]


def test_a_step_that_was_trained_again_replaces_its_checkpoint_and_later_ones_go(small: Path, tmp_path: Path) -> None:
    ours = learner(config(small))
    store = FolderStore(tmp_path)
    for step in (1, 2):
        ours.train_step(batch(step=step))
        save_now(ours, store)
    again = learner(config(small))
    again.begin_lineage(Version(lineage=1, step=0))
    again.train_step(batch(step=1, lineage=1))
    save_now(again, store)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert load_now(learner(config(small)), store) == Version(lineage=1, step=1)


@pytest.mark.parametrize("num_bytes", [1_000, 100_000, 200_000])
def test_a_full_disk_is_reported_leaves_nothing_and_training_goes_on(small: Path, tmp_path: Path, num_bytes: int) -> None:
    ours = learner(config(small))
    told: list[Saved | SaveFailed] = []
    checkpoints = Checkpoints(ours, FolderStore(tmp_path), report=told.append)
    with disk_of(num_bytes):
        checkpoints.begin(ours.export())
        checkpoints.finish()
    assert [type(news) for news in told] == [SaveFailed]
    assert re.search(r"could not be written.*MiB free|File too large", told[0].reason)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [OWNER]
    ours.train_step(batch())
    checkpoints.begin(ours.export())
    checkpoints.finish()
    assert [type(news) for news in told] == [SaveFailed, Saved]
    assert load_now(learner(config(small)), FolderStore(tmp_path)) == Version(step=1)


def test_two_failed_checkpoints_in_a_row_end_the_run_and_two_apart_do_not(small: Path, tmp_path: Path) -> None:
    store = FullStore(tmp_path)
    ours = learner(config(small))
    checkpoints = Checkpoints(ours, store)
    for step, is_full in enumerate((True, False, True), start=1):
        store.is_full = is_full
        ours.train_step(batch(step=step))
        checkpoints.begin(ours.export())
        checkpoints.finish()
    checkpoints.begin(ours.export())
    with pytest.raises(LearnerError, match=r"2 checkpoints in a row could not be written.*No space left"):
        checkpoints.finish()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000002"]


def test_a_place_that_is_no_folder_is_a_failed_checkpoint(small: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    told: list[Saved | SaveFailed] = []
    ours = learner(config(small))
    checkpoints = Checkpoints(ours, FolderStore(tmp_path), report=told.append)
    checkpoints.begin(ours.export())
    checkpoints.finish()
    assert [type(news) for news in told] == [SaveFailed]
    assert (tmp_path / "checkpoints").read_text() == "in the way"


def test_a_checkpoint_of_another_model_is_the_users_mistake(small: Path, small_tied: Path, tmp_path: Path) -> None:
    save_now(learner(config(small_tied)), FolderStore(tmp_path))
    with pytest.raises(UserError, match="does not fit the model"):
        load_now(learner(config(small)), FolderStore(tmp_path))


def test_a_learner_only_starts_a_lineage_from_the_step_that_it_holds(small: Path) -> None:
    ours = learner(config(small))
    with pytest.raises(LearnerError, match=r"holds version 0.0 and cannot start from 1.3"):
        ours.begin_lineage(Version(lineage=1, step=3))
    ours.begin_lineage(Version(lineage=1, step=0))
    with pytest.raises(LearnerError, match="cannot train step 1 of lineage 0"):
        ours.train_step(batch(step=1))
    ours.train_step(batch(step=1, lineage=1))
    assert ours.version == Version(lineage=1, step=1)
