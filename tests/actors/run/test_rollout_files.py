"""Laws of the kept rollouts: what is written is read back, whatever the model wrote."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actors.run.rollout_files import compress, decompress
from rlvr.records import Batch, FinishReason, JudgedRollout, Rollout, Verdict, VerdictKind, Version, VersionSpan


def judged(text: str, *, number: int) -> JudgedRollout:
    rollout = Rollout(
        id=f"r{number}",
        problem_id="p",
        group_id="g",
        lease_id="l",
        token_data=np.array([5, 6, 1], "<i4").tobytes(),
        logprob_data=np.array([-0.5, -1.0, -1.5], "<f4").tobytes(),
        spans=(VersionSpan(Version(step=3), 0, 1), VersionSpan(Version(step=4), 1, 3)),
        finish_reason=FinishReason.STOP,
        seconds=0.5,
        text=text,
    )
    return JudgedRollout(rollout=rollout, verdict=Verdict(rollout_id=f"r{number}", lease_id="v", kind=VerdictKind.WRONG, reward=0.0, answer=text[:5]))


@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=5))
def test_any_text_survives_surrogates_too(texts: list[str]) -> None:
    batch = Batch(step=7, lineage=0, rollouts=tuple(judged(text, number=number) for number, text in enumerate(texts)), prompts={})
    records = decompress(compress(batch))
    assert [record.text for record in records] == texts
    assert all(record.step == 7 and record.kind == "wrong" and record.mean_logprob == -1.0 for record in records)
    assert all(record.versions == (("0.3", 0, 1), ("0.4", 1, 3)) for record in records)
