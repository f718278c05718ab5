"""Every policy of docs/verifier.md, judged as its table says."""

import pathlib
import re

import pytest
from judge import of_answer

TABLE = pathlib.Path(__file__).parents[2] / "docs" / "verifier.md"
_ROW = re.compile(r"\| (P\d\d) \| (.+?) \| (.+) \| (correct|wrong) \| (.+) \|")
_EXAMPLE = re.compile(r"`([^`]*)` ← ((?:`[^`]*`(?:, )?)+)")


def policies() -> list[tuple[str, str, str, str]]:
    """Test id, gold, answer and verdict of every example."""
    found = []
    for name, _, examples, verdict, _ in _ROW.findall(TABLE.read_text()):
        for gold, answers in _EXAMPLE.findall(examples):
            found.extend((name, gold, answer, verdict) for answer in re.findall(r"`([^`]*)`", answers))
    return found


@pytest.mark.parametrize(("name", "gold", "answer", "verdict"), policies())
def test_a_policy_is_what_its_table_says(name: str, gold: str, answer: str, verdict: str) -> None:
    assert (of_answer(answer, gold) == "correct") == (verdict == "correct"), name


def test_the_table_is_read_to_its_end() -> None:
    names = [name for name, *_ in policies()]
    assert sorted(set(names)) == [f"P{number:02d}" for number in range(1, len(set(names)) + 1)]
    assert len(set(names)) > 50
