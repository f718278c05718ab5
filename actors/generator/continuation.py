"""A completion that one generator began and another ends: what is asked of the engine, and how the two parts become one.

Pure rules, called by the generator. Tokens and logprobs of the first part stay as they were sampled; the second part is sampled after them as if they
were prompt, under whatever weights the engine has by then, and says so in its spans.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from actors.engine.samples import Completion, SampleRequest, Sampling
from rlvr.records import LOGPROB_DTYPE, TOKEN_DTYPE, FinishReason, Partial, VersionSpan


def continuing(request: SampleRequest, partial: Partial) -> SampleRequest:
    """The request for the tokens that `partial` lacks."""
    sampling = msgspec.structs.replace(request.sampling, max_tokens=request.sampling.max_tokens - partial.num_tokens)
    return msgspec.structs.replace(request, prompt_ids=(*request.prompt_ids, *partial.token_ids.tolist()), sampling=sampling)


def end_of(partial: Partial, *, num_prompt_tokens: int, sampling: Sampling, max_model_len: int) -> FinishReason | None:
    """Why nothing is to be sampled after `partial`; None where something is."""
    if int(partial.token_ids[-1]) in sampling.stop_token_ids:
        return FinishReason.STOP
    is_full = partial.num_tokens >= sampling.max_tokens or num_prompt_tokens + partial.num_tokens >= max_model_len
    return FinishReason.LENGTH if is_full else None


def beginning(partial: Partial, *, finish_reason: FinishReason | None) -> Completion:
    """The first part alone, as a completion."""
    return Completion(
        rollout_id=partial.rollout_id,
        token_ids=partial.token_ids,
        logprobs=partial.logprobs,
        spans=partial.spans,
        finish_reason=finish_reason,
        seconds=0.0,
    )


def joined(partial: Partial, rest: Completion) -> Completion:
    """Both parts as one completion."""
    return msgspec.structs.replace(
        rest,
        token_ids=np.concatenate([partial.token_ids, rest.token_ids]),
        logprobs=np.concatenate([partial.logprobs, rest.logprobs]),
        spans=joined_spans(partial.spans, rest.spans),
    )


def joined_spans(first: Sequence[VersionSpan], second: Sequence[VersionSpan]) -> tuple[VersionSpan, ...]:
    """`second` moved behind `first`; where the same version goes on, its two spans are one."""
    offset = first[-1].end
    moved = [VersionSpan(version=span.version, start=span.start + offset, end=span.end + offset) for span in second]
    if moved and moved[0].version == first[-1].version:
        bridge = VersionSpan(version=moved[0].version, start=first[-1].start, end=moved[0].end)
        return (*first[:-1], bridge, *moved[1:])
    return (*first, *moved)


def partial_of(completion: Completion, *, handovers: int) -> Partial | None:
    """What is handed back of an interrupted completion; None where it has no token."""
    if not len(completion.token_ids):
        return None
    return Partial(
        rollout_id=completion.rollout_id,
        token_data=completion.token_ids.astype(TOKEN_DTYPE).tobytes(),
        logprob_data=completion.logprobs.astype(LOGPROB_DTYPE).tobytes(),
        spans=completion.spans,
        handovers=handovers,
    )
