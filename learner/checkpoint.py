"""What a learner publishes and what it saves.

Owns the layout of a checkpoint: CHECKPOINTS/step-NNNNNN/ is a Hugging Face folder of the published bf16 weights with tokenizer, its state/ the
exact state (`torch.distributed.checkpoint`: master weights, AdamW's moments and count), its checkpoint.json says which version it is and is what
makes a folder a checkpoint. Called by `learner.learner`; all functions are collective.
"""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion

from learner.model_folder import GENERATION_CONFIG, copy_files
from learner.policy import Policy
from rlvr.errors import LearnerError, UserError
from rlvr.records import Version

if TYPE_CHECKING:
    from learner.learner import Learner

MARKER = "checkpoint.json"
STATE = "state"


def published(policy: Policy, *, keep: bool) -> dict[str, Tensor] | None:
    """The weights as generators get them: bf16-rounded, whole, on the CPU, by checkpoint name, tied ones once; None where not kept. Collective.

    Tensor by tensor: at any moment one weight is whole in bf16 on the device, beside those already on the CPU.
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in policy.weights().items():
        rounded = weight.detach().to(torch.bfloat16)
        whole = cast(DTensor, rounded).full_tensor()
        if keep:
            tensors[name] = whole.to("cpu", copy=True).contiguous()  # a gathered tensor may be a view of padded memory, or the weight itself
    return revert_weight_conversion(policy.model, tensors) if keep else None


def save(learner: "Learner", checkpoints: Path, *, version: Version) -> Path:
    """Write CHECKPOINTS/step-NNNNNN whole or not at all, then prune older ones. Raises LearnerError on every rank when one of them failed."""
    folder = checkpoints / f"step-{version.step:06d}"
    partial = checkpoints / f".{folder.name}.partial"
    _together(learner.rank == 0, lambda: _fresh(partial), what=f"checkpoint {folder} cannot be started")
    tensors = published(learner.policy, keep=learner.rank == 0)
    try:
        dcp.save(_state(learner), checkpoint_id=partial / STATE)
    except (dcp.CheckpointException, OSError) as error:
        raise LearnerError(f"checkpoint {folder} cannot be written: {error}") from error

    def finish() -> None:
        assert tensors is not None
        _write_model(learner, partial, tensors)
        (partial / MARKER).write_text(json.dumps({"version": str(version), "world_size": learner.world_size}) + "\n", encoding="utf-8")
        _sync(partial)
        _replace(partial, folder)
        _prune(folder, keep=learner.config.learner.keep)

    _together(learner.rank == 0, finish, what=f"checkpoint {folder} cannot be written")
    return folder


def load(learner: "Learner", folder: Path) -> Version:
    """Read FOLDER/state into the learner's weights and optimizer. Collective. Raises UserError where FOLDER is no checkpoint of this model."""
    version = read_version(folder)
    state = _state(learner)
    try:
        dcp.load(state, checkpoint_id=folder / STATE)
    except (dcp.CheckpointException, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"the checkpoint {folder} does not fit the model {learner.config.model.policy}: {error}") from error
    for name, weight in learner.policy.weights().items():
        learner.optimizer.state[weight] = {
            "step": state["updates"].float().clone(),
            "exp_avg": state["exp_avg"][name],
            "exp_avg_sq": state["exp_avg_sq"][name],
        }
    return version


def read_version(folder: Path) -> Version:
    """The version that a checkpoint holds. Raises UserError where FOLDER is no checkpoint."""
    try:
        return Version.parse(json.loads((folder / MARKER).read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is no checkpoint: its {MARKER} is missing or unreadable") from error


def _state(learner: "Learner") -> dict[str, Any]:
    """The exact state; tensors share their memory with the learner's own, where it has them already."""
    weights = learner.policy.weights()
    moments = learner.optimizer.state
    first = moments.get(next(iter(weights.values())), {})
    return {
        "weights": {name: weight.detach() for name, weight in weights.items()},
        "exp_avg": {name: moments[weight]["exp_avg"] if weight in moments else torch.zeros_like(weight.detach()) for name, weight in weights.items()},
        "exp_avg_sq": {
            name: moments[weight]["exp_avg_sq"] if weight in moments else torch.zeros_like(weight.detach()) for name, weight in weights.items()
        },
        "updates": torch.as_tensor(first.get("step", 0.0), dtype=torch.float32, device="cpu"),
    }


def _write_model(learner: "Learner", folder: Path, tensors: dict[str, Tensor]) -> None:
    save_torch_state_dict(tensors, folder, metadata={"format": "pt"})
    model = learner.policy.model
    config = copy.deepcopy(model.config)
    config.dtype = torch.bfloat16
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    copy_files(learner.folder, folder, with_code=learner.config.model.trust_remote_code)
    if model.generation_config is not None and not (folder / GENERATION_CONFIG).exists():
        model.generation_config.save_pretrained(folder)


def _together(acts: bool, action: Callable[[], None], *, what: str) -> None:
    """Run an action where `acts`; every rank waits for it and raises LearnerError when it failed anywhere."""
    failure = "another error" if acts else ""
    failures: list[str] = [""] * dist.get_world_size()
    try:
        if acts:
            action()
        failure = ""
    except OSError as error:
        failure = str(error)
    finally:  # whatever was raised here, the others must not wait
        dist.all_gather_object(failures, failure)
    if any(failures):
        raise LearnerError(f"{what}: {next(filter(None, failures))}")


def _fresh(folder: Path) -> None:
    """An empty folder; what a crash left under its name goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _sync(folder: Path) -> None:
    """Every file and folder below reaches the disk."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(partial: Path, folder: Path) -> None:
    """Put the finished folder in its place; an older one of that name steps aside first and then goes."""
    aside = folder.parent / f".{folder.name}.replaced"
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    partial.rename(folder)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    shutil.rmtree(aside, ignore_errors=True)


def _prune(newest: Path, *, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints beside the one just written, which always stays."""
    others = [path.parent for path in newest.parent.glob(f"*/{MARKER}") if path.parent != newest]
    others.sort(key=read_version)
    for folder in others[: max(0, len(others) - (keep - 1))]:
        shutil.rmtree(folder)
