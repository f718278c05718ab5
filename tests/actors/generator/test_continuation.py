"""Laws of a completion in two parts: ids, logprobs and spans are the concatenation, and nothing is sampled after an end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.samples import Completion, SampleRequest, Sampling
from actors.generator.continuation import beginning, continuing, end_of, joined, partial_of
from rlvr.records import LOGPROB_DTYPE, TOKEN_DTYPE, FinishReason, Partial, Version, VersionSpan

REQUEST = SampleRequest(rollout_id="r", prompt_ids=(3, 4), sampling=Sampling(max_tokens=10, stop_token_ids=(1,)))


def partial(ids: list[int], *versions: int) -> Partial:
    """versions: the step of each token's version."""
    completion = sampled(ids, *versions, finish_reason=None)
    made = partial_of(completion, handovers=1)
    assert made is not None
    return made


def sampled(ids: list[int], *versions: int, finish_reason: FinishReason | None = FinishReason.STOP) -> Completion:
    assert len(ids) == len(versions)
    return Completion(
        rollout_id="r",
        token_ids=np.array(ids, TOKEN_DTYPE),
        logprobs=np.array([-index / 8 for index in ids], LOGPROB_DTYPE),
        spans=spans_of(list(versions)),
        finish_reason=finish_reason,
        seconds=2.0,
    )


def spans_of(versions: list[int]) -> tuple[VersionSpan, ...]:
    """The fewest spans that say this of each token."""
    edges = [index for index in range(len(versions)) if index == 0 or versions[index] != versions[index - 1]]
    return tuple(VersionSpan(Version(step=versions[start]), start, end) for start, end in zip(edges, [*edges[1:], len(versions)], strict=False))


TOKENS = st.lists(st.tuples(st.integers(0, 63), st.integers(0, 3)), min_size=1, max_size=8).map(
    lambda tokens: ([token for token, _ in tokens], sorted(version for _, version in tokens))
)


@given(first=TOKENS, second=TOKENS)
def test_a_continued_completion_is_the_concatenation_of_its_parts(first: tuple[list[int], list[int]], second: tuple[list[int], list[int]]) -> None:
    later = [version + first[1][-1] for version in second[1]]
    whole = joined(partial(first[0], *first[1]), sampled(second[0], *later))
    expected = sampled(first[0] + second[0], *first[1], *later)
    assert whole.token_ids.tolist() == expected.token_ids.tolist()
    assert whole.logprobs.tobytes() == expected.logprobs.tobytes()
    assert whole.spans == expected.spans
    assert whole.finish_reason is FinishReason.STOP


def test_what_is_asked_for_is_the_rest_after_the_first_part() -> None:
    rest = continuing(REQUEST, partial([5, 6, 7], 0, 0, 1))
    assert rest.prompt_ids == (3, 4, 5, 6, 7)
    assert rest.sampling == Sampling(max_tokens=7, stop_token_ids=(1,))
    assert rest.rollout_id == "r"


@pytest.mark.parametrize(
    ("ids", "max_model_len", "end"),
    [
        ([5, 6], 64, None),
        ([5, 1], 64, FinishReason.STOP),
        ([1, 5], 64, None),
        ([5] * 10, 64, FinishReason.LENGTH),
        ([5, 6, 7], 5, FinishReason.LENGTH),
        ([5, 6], 5, None),
    ],
)
def test_a_first_part_that_is_whole_already_is_ended_without_sampling(ids: list[int], max_model_len: int, end: FinishReason | None) -> None:
    begun = partial(ids, *[0] * len(ids))
    assert end_of(begun, num_prompt_tokens=2, sampling=REQUEST.sampling, max_model_len=max_model_len) is end
    assert beginning(begun, finish_reason=end).token_ids.tolist() == ids


def test_a_rest_without_a_token_leaves_the_first_part_as_it_was() -> None:
    begun = partial([5, 6], 0, 1)
    rest = sampled([], finish_reason=None)
    again = partial_of(joined(begun, rest), handovers=2)
    assert again is not None
    assert (again.token_data, again.logprob_data, again.spans, again.handovers) == (begun.token_data, begun.logprob_data, begun.spans, 2)
    assert partial_of(rest, handovers=1) is None
