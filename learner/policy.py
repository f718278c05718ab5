"""A transformers causal language model as one sharded module that gives logprobs and entropies of completion tokens.

Owns sharding (FSDP2), mixed precision and activation checkpointing. Called by `learner.learner`; knows no loss and no batch.
Shapes: B rows, L padded tokens of a row, M completion tokens of all rows, H hidden, V vocabulary.
Rows are padded on the right: under causal attention no real token sees the padding, so that no attention mask is needed.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from learner.logprobs import token_logprobs
from rlvr.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Policy(nn.Module):
    """Hidden states of the decoder, then logprobs in chunks. Parameter names below `model` are those of transformers."""

    def __init__(self, model: PreTrainedModel, *, chunk_tokens: int, temperature: float) -> None:
        super().__init__()
        _check_head(model)
        self.model = model
        self.chunk_tokens = chunk_tokens
        self.temperature = temperature

    def forward(self, input_ids_BL: Tensor, positions_M: Tensor, targets_M: Tensor, *, entropy_trains: bool = False) -> tuple[Tensor, Tensor]:
        """Logprobs and entropies, [M] float32 nats each.

        positions_M: flat index into [B * L] of the token *before* each target. targets_M: the completion tokens.
        """
        hidden_BLH = self.model.base_model(input_ids=input_ids_BL, use_cache=False).last_hidden_state
        hidden_MH = hidden_BLH.flatten(0, 1).index_select(0, positions_M)
        head = self.model.get_output_embeddings()
        return token_logprobs(
            hidden_MH,
            head.weight,
            getattr(head, "bias", None),
            targets_M,
            chunk_tokens=self.chunk_tokens,
            temperature=self.temperature,
            entropy_trains=entropy_trains,
        )

    def weights(self) -> dict[str, nn.Parameter]:
        """Parameters by transformers' names, in the model's order; tied ones once."""
        return dict(self.model.named_parameters())

    def free_gathered(self) -> None:
        """Give back the root's gathered weights, which a pass without backward leaves behind and a later one would find stale."""
        cast(FSDPModule, self).reshard()


def build(
    model: PreTrainedModel,
    *,
    mesh: DeviceMesh,
    compute_dtype: str,
    chunk_tokens: int,
    temperature: float,
    activation_checkpointing: bool,
    trains: bool,
) -> Policy:
    """Shard a model over the mesh: every decoder layer on its own, the rest (embedding, last norm, head) with the root.

    Gradients are summed in float32. trains = False freezes the weights. Raises UserError for a model that this module cannot compute.
    """
    if trains and compute_dtype == "float16":
        raise UserError('model.compute_dtype = "float16" would need loss scaling, which does not exist here: use "bfloat16" or "float32"')
    policy = Policy(model, chunk_tokens=chunk_tokens, temperature=temperature)
    policy.requires_grad_(trains)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"{type(model).__name__} has no decoder layers that transformers marks as such: it cannot be sharded")
    if trains and activation_checkpointing:
        _recompute_activations(model, layers)
    precision = MixedPrecisionPolicy(param_dtype=DTYPES[compute_dtype], reduce_dtype=torch.float32)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=not trains)
    return policy


def _recompute_activations(model: PreTrainedModel, layers: list[GradientCheckpointingLayer]) -> None:
    """Turn on transformers' checkpointing of each layer.

    It asks for training mode, which would also turn dropout on inside the layers: so the layer alone is told, its parts stay in evaluation mode.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, "preserve_rng_state": False})
    for layer in layers:
        layer.training = True


@torch.no_grad()
def _check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not its output embedding times its last hidden state (scaled or capped ones, for example)."""
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"{type(model).__name__} has no output embedding")
    probe = torch.arange(4)[None] % model.config.get_text_config().vocab_size
    logits = model(input_ids=probe, use_cache=False).logits
    if not torch.equal(head(model.base_model(input_ids=probe, use_cache=False).last_hidden_state), logits):
        raise UserError(f"{type(model).__name__} changes its logits after the output embedding, which the learner does not reproduce")
