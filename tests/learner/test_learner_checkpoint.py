"""What is published and what is saved: names, bits, round trips, and nothing half-written."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_models import batch, config, learner, llama, save, tokenizer, whole_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.config import LearnerConfig
from rlvr.errors import LearnerError, UserError
from rlvr.records import Version

pytestmark = pytest.mark.usefixtures("alone")


def names_in(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


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
    folder = ours.save_checkpoint(tmp_path, Version(step=1))
    assert folder == tmp_path / "step-000001"
    model = AutoModelForCausalLM.from_pretrained(folder)
    published = ours.export()
    assert published is not None
    assert model.dtype == torch.bfloat16
    assert names_in(folder) == published.keys()
    assert all(torch.equal(weight, published[name]) for name, weight in model.named_parameters())
    assert model.generation_config.eos_token_id == 1
    assert AutoTokenizer.from_pretrained(folder)("6+5=?").input_ids == tokenizer()("6+5=?").input_ids


def test_training_continues_bit_for_bit_from_a_checkpoint(small_tied: Path, tmp_path: Path) -> None:
    run = config(small_tied, optimizer={"updates_per_step": 2})
    first = learner(run)
    for step in (1, 2):
        first.train_step(batch(step=step))
    folder = first.save_checkpoint(tmp_path, first.version)
    second = learner(run)
    assert second.load_state(folder) == Version(step=2)
    reports = [[ours.train_step(batch(step=step)) for step in (3, 4)] for ours in (first, second)]
    assert [(r.loss, r.grad_norm) for r in reports[0]] == [(r.loss, r.grad_norm) for r in reports[1]]
    assert all(torch.equal(weight, whole_weights(second)[name]) for name, weight in whole_weights(first).items())


def test_a_checkpoint_of_the_untrained_policy_resumes_too(small: Path, tmp_path: Path) -> None:
    first = learner(config(small))
    folder = first.save_checkpoint(tmp_path, Version())
    second = learner(config(small))
    second.load_state(folder)
    for ours in (first, second):
        ours.train_step(batch())
    assert all(torch.equal(weight, whole_weights(second)[name]) for name, weight in whole_weights(first).items())


def test_only_the_newest_checkpoints_are_kept_and_other_folders_stay(small: Path, tmp_path: Path) -> None:
    ours = learner(config(small, learner=LearnerConfig(keep=2)))
    (tmp_path / "notes").mkdir()
    (tmp_path / ".step-000001.partial").mkdir()  # a crash left it
    for step in (1, 2, 3):
        ours.train_step(batch(step=step))
        ours.save_checkpoint(tmp_path, Version(step=step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-000002", "step-000003"]


def test_a_step_that_was_trained_again_replaces_its_checkpoint(small: Path, tmp_path: Path) -> None:
    ours = learner(config(small))
    ours.save_checkpoint(tmp_path, Version(lineage=0, step=0))
    ours.save_checkpoint(tmp_path, Version(lineage=1, step=0))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000"]
    assert learner(config(small)).load_state(tmp_path / "step-000000") == Version(lineage=1, step=0)


def test_a_version_that_the_learner_does_not_hold_is_not_saved(small: Path, tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match="cannot save"):
        learner(config(small)).save_checkpoint(tmp_path, Version(step=3))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error_on_every_rank(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LearnerError, match="cannot be started"):
        learner(config(small)).save_checkpoint(tmp_path / "file", Version())


def test_what_is_no_checkpoint_is_the_users_mistake(small: Path, small_tied: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no checkpoint"):
        learner(config(small)).load_state(tmp_path)
    folder = learner(config(small_tied)).save_checkpoint(tmp_path, Version())
    with pytest.raises(UserError, match="does not fit the model"):
        learner(config(small)).load_state(folder)
    (folder / "checkpoint.json").write_text(json.dumps({"version": "x"}))
    with pytest.raises(UserError, match="is no checkpoint"):
        learner(config(small)).load_state(folder)
