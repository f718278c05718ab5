"""A rollout is born complete, or not at all."""

import numpy as np
import pytest

from rlvr.records import FinishReason, Rollout, Verdict, VerdictKind, Version, VersionSpan


def rollout(*spans: tuple[int, int, int], num_tokens: int = 3, logprob_bytes: int = 12) -> Rollout:
    return Rollout(
        id="r",
        problem_id="p",
        group_id="g",
        lease_id="l",
        token_data=np.arange(num_tokens, dtype="<i4").tobytes(),
        logprob_data=bytes(logprob_bytes),
        spans=tuple(VersionSpan(Version(step=step), start, end) for step, start, end in spans),
        finish_reason=FinishReason.LENGTH,
        seconds=0.1,
        text="",
    )


def test_a_rollout_tells_its_tokens_its_oldest_version_and_its_end() -> None:
    one = rollout((4, 0, 1), (5, 1, 3))
    assert one.token_ids.tolist() == [0, 1, 2]
    assert one.logprobs.dtype == np.float32
    assert one.oldest_version == Version(step=4)
    assert one.is_truncated
    with pytest.raises(ValueError, match="read-only"):
        one.token_ids[0] = 1


@pytest.mark.parametrize(
    ("spans", "sizes", "reason"),
    [
        ([(0, 0, 2)], {}, "cover 2 of 3 tokens"),
        ([(0, 0, 1), (1, 2, 3)], {}, "leave a gap at token 1"),
        ([(0, 0, 0)], {}, "leave a gap at token 0"),
        ([], {}, "cover 0 of 3 tokens"),
        ([(0, 0, 3)], {"logprob_bytes": 8}, "12 token bytes and 8 logprob bytes do not pair up"),
        ([], {"num_tokens": 0, "logprob_bytes": 0}, "a completion has at least one token"),
    ],
)
def test_a_rollout_that_does_not_add_up_cannot_be_made(spans: list[tuple[int, int, int]], sizes: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rollout(*spans, **sizes)


@pytest.mark.parametrize("kind", VerdictKind)
def test_a_fault_of_ours_has_no_reward_and_every_other_verdict_has_one(kind: VerdictKind) -> None:
    reward = None if kind.is_ours else 0.0
    assert Verdict(rollout_id="r", lease_id="l", kind=kind, reward=reward).reward == reward
    with pytest.raises(ValueError, match="only a fault of ours has none"):
        Verdict(rollout_id="r", lease_id="l", kind=kind, reward=0.0 if kind.is_ours else None)


def test_a_version_is_written_lineage_dot_step_and_read_back() -> None:
    assert Version.parse(str(Version(lineage=2, step=17))) == Version(lineage=2, step=17)
    for label in ("default", "1", "1.", ".1", "1.2.3", "-1.2", "1.x"):
        with pytest.raises(ValueError, match=r"written lineage.step"):
            Version.parse(label)
    assert Version(lineage=0, step=9) < Version(lineage=1, step=0)
