"""What an engine is asked and what it answers, in our words and in vLLM's.

Owns the translation both ways. Called by `actors.engine.engine`; the records are everybody's who samples. vLLM is imported when the first request is
translated: the environment is prepared by then.
"""

from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from rlvr.records import LOGPROB_DTYPE, TOKEN_DTYPE, FinishReason, Version, VersionSpan

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.output_processor import RequestState


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to sample. temperature: 0 = greedy. stop_token_ids: the only tokens that end a completion; the model's own are not added."""

    max_tokens: int
    stop_token_ids: tuple[int, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1


class SampleRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One completion to sample. seed: of this request; None = the engine's own stream."""

    rollout_id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    seed: int | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A completion: as many logprobs (nats, of the sampling distribution) as tokens, the stop token included.

    finish_reason: None where it was interrupted; then it has the tokens that were sampled so far, which may be none.
    """

    rollout_id: str
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    spans: tuple[VersionSpan, ...]
    finish_reason: FinishReason | None
    seconds: float

    @property
    def is_truncated(self) -> bool:
        return self.finish_reason is FinishReason.LENGTH


def sampling_params(request: SampleRequest) -> "SamplingParams":
    """One completion, returned once, whole, as ids and the logprob of each."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        n=1, max_tokens=sampling.max_tokens, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, seed=request.seed,
        stop_token_ids=list(sampling.stop_token_ids), ignore_eos=True, logprobs=0, flat_logprobs=True, detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )  # fmt: skip


def num_sampled(state: "RequestState") -> int:
    """Tokens that a request has so far."""
    assert state.detokenizer is not None, "only pooling requests have none"
    return state.detokenizer.num_output_tokens()


def nothing_of(request: SampleRequest) -> Completion:
    """What is there of a request that was never begun."""
    return Completion(
        rollout_id=request.rollout_id,
        token_ids=np.empty(0, TOKEN_DTYPE),
        logprobs=np.empty(0, LOGPROB_DTYPE),
        spans=(),
        finish_reason=None,
        seconds=0.0,
    )


def completion_of(request: SampleRequest, output: "RequestOutput", seconds: float) -> Completion:
    """Our record of vLLM's; a request that vLLM was asked to abort is unfinished."""
    from vllm.logprobs import FlatLogprobs

    whole = output.outputs[0]
    assert whole.finish_reason is not None, "FINAL_ONLY returns finished requests"
    if not whole.token_ids:
        return nothing_of(request)
    assert isinstance(whole.logprobs, FlatLogprobs)
    spans = tuple(VersionSpan(version=Version.parse(span.version), start=span.start, end=span.end) for span in whole.weight_versions or ())
    return Completion(
        rollout_id=request.rollout_id,
        token_ids=np.asarray(whole.token_ids, TOKEN_DTYPE),
        logprobs=np.asarray(whole.logprobs.logprobs, LOGPROB_DTYPE),
        spans=spans,
        finish_reason=FinishReason(whole.finish_reason) if whole.finish_reason in tuple(FinishReason) else None,
        seconds=seconds,
    )
