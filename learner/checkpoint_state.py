"""What a learner publishes, and the exact state from which it continues.

Owns the two forms of the weights: bf16 by checkpoint name (published, and a checkpoint's Hugging Face folder), and the state that a next step rests
on: master weights, AdamW's moments and its count. There is nothing else: the learning rate and the order of mini-batches are functions of step and
seed, and no step draws a random number. Called by `learner.learner` and `learner.checkpoint`; knows no store.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion

from learner.model_folder import GENERATION_CONFIG, copy_files
from learner.policy import Policy

if TYPE_CHECKING:
    from learner.learner import Learner


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


def exact_state(learner: "Learner") -> dict[str, Any]:
    """The exact state; tensors share their memory with the learner's own, where it has them already."""
    weights = learner.policy.weights()
    moments = learner.optimizer.state
    first = moments.get(next(iter(weights.values())), {})

    def moment(which: str) -> dict[str, Tensor]:
        return {name: moments[weight][which] if weight in moments else torch.zeros_like(weight.detach()) for name, weight in weights.items()}

    return {
        "weights": {name: weight.detach() for name, weight in weights.items()},
        "exp_avg": moment("exp_avg"),
        "exp_avg_sq": moment("exp_avg_sq"),
        "updates": torch.as_tensor(first.get("step", 0.0), dtype=torch.float32, device="cpu"),
    }


def adopt(learner: "Learner", state: dict[str, Any]) -> None:
    """Make what was read into `exact_state`'s tensors the optimizer's own; the weights were read in place."""
    for name, weight in learner.policy.weights().items():
        learner.optimizer.state[weight] = {
            "step": state["updates"].float().clone(),
            "exp_avg": state["exp_avg"][name],
            "exp_avg_sq": state["exp_avg_sq"][name],
        }


def write_model(learner: "Learner", folder: Path, tensors: dict[str, Tensor]) -> None:
    """A Hugging Face folder of published weights, with the tokenizer and settings of the model that training began with."""
    save_torch_state_dict(tensors, folder, metadata={"format": "pt"})
    model = learner.policy.model
    config = copy.deepcopy(model.config)
    config.dtype = torch.bfloat16
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    copy_files(learner.folder, folder, with_code=learner.config.model.trust_remote_code)
    if model.generation_config is not None and not (folder / GENERATION_CONFIG).exists():
        model.generation_config.save_pretrained(folder)
