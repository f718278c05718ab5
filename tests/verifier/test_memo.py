"""The bounded memory of verdicts."""

from hypothesis import given
from hypothesis import strategies as st

from verifier.memo import Memo


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9))), st.integers(1, 6))
def test_a_memo_holds_the_entries_used_last(steps: list[tuple[bool, int]], size: int) -> None:
    memo: Memo[int, int] = Memo(size)
    recent: list[int] = []
    for is_put, key in steps:
        if is_put:
            memo.put(key, -key)
        else:
            assert memo.get(key) == (-key if key in recent else None)
        if is_put or key in recent:
            recent = [*[other for other in recent if other != key], key][-size:]
    assert len(memo) == len(recent)
    assert all(memo.get(key) == -key for key in recent)


def test_a_cleared_memo_knows_nothing() -> None:
    memo: Memo[str, int] = Memo(2)
    memo.put("a", 1)
    memo.clear()
    assert memo.get("a") is None
