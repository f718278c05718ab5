"""Logprobs and entropies of given tokens, from hidden states, in chunks: logits of more than one chunk never exist, forward or backward.

Owns the vocabulary-wide arithmetic. Called by `learner.policy`; knows no model, no rank.
Shapes: M tokens, C tokens of one chunk, H hidden, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    hidden_MH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_M: Tensor,
    *,
    chunk_tokens: int,
    temperature: float,
    entropy_trains: bool,
) -> tuple[Tensor, Tensor]:
    """Logprobs and entropies, [M] float32 nats each, of softmax(logits / temperature) at the targets.

    The backward pass computes each chunk's logits again. entropy_trains = False gives entropies without gradient.
    """
    pieces = []
    for start in range(0, targets_M.numel(), chunk_tokens):
        chunk = slice(start, start + chunk_tokens)
        arguments = (hidden_MH[chunk], weight_VH, bias_V, targets_M[chunk], temperature, entropy_trains)
        if torch.is_grad_enabled():
            pieces.append(checkpoint(_chunk_logprobs, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            pieces.append(_chunk_logprobs(*arguments))
    logprobs, entropies = zip(*pieces, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _chunk_logprobs(
    hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_C: Tensor, temperature: float, entropy_trains: bool
) -> tuple[Tensor, Tensor]:
    logits_CV = functional.linear(hidden_CH, weight_VH, bias_V).float()
    if temperature != 1.0:
        logits_CV = logits_CV / temperature
    normaliser_C = logits_CV.logsumexp(-1)
    logprobs_C = logits_CV.gather(-1, targets_C[:, None]).squeeze(-1) - normaliser_C
    with torch.set_grad_enabled(entropy_trains and torch.is_grad_enabled()):
        entropy_C = normaliser_C - (logits_CV.softmax(-1) * logits_CV).sum(-1)
    return logprobs_C, entropy_C
