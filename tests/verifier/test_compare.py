"""The laws of the comparison: reflexive, symmetric for plain values, and one verdict in parent and child."""

import pathlib

import pytest
from hypothesis import given, settings
from judge import of_answer, rows, verdict, warm
from printing import latex
from test_grammar import SCALARS

from verifier import algebra, exact, numeric
from verifier.answers import parse, parse_gold
from verifier.compare import is_defined, settle
from verifier.extract import extract
from verifier.nodes import Kind, Node
from verifier.readings import free_names

OWN = pathlib.Path(__file__).with_name("cases_own.jsonl")


def pairs() -> list[tuple[Node, Node]]:
    """Answer and gold of the rows of our own that have both."""
    found = []
    for row in rows(OWN):
        text = extract(row["response"], "all")
        answer = None if text is None else parse(text)
        if answer is not None:
            found.append((answer, parse_gold(row["gold"])))
    return found


def test_the_child_agrees_with_the_parent_on_every_row_that_the_parent_decides() -> None:
    warm()
    settled = [(answer, gold, decision) for answer, gold in pairs() if (decision := settle(answer, gold)) is not None]
    assert len(settled) > 500
    assert [(answer, gold) for answer, gold, decision in settled if algebra.decide(answer, gold).kind != decision.kind] == []


PLAIN = frozenset(
    (Kind.NUMBER, Kind.QUOTIENT, Kind.SUM, Kind.PRODUCT, Kind.POWER, Kind.ROOT, Kind.NEGATIVE, Kind.MIXED, Kind.TUPLE, Kind.SET, Kind.INTERVAL)
)


def is_plain(tree: Node) -> bool:
    """No policy that asks which side is the gold: the constant of integration, a logarithm without base, an applied name."""
    return tree.kind in PLAIN and "C" not in free_names(tree) and not any(call in str(tree) for call in ("'log'", "text='c'", "'apply'"))


def test_swapping_answer_and_gold_changes_no_verdict_of_plain_values() -> None:
    warm()
    plain = [(answer, gold) for answer, gold in pairs() if is_plain(answer) and is_plain(gold)]
    assert len(plain) > 200
    for answer, gold in plain:
        there, back = (settle(one, two) or algebra.decide(one, two) for one, two in ((answer, gold), (gold, answer)))
        assert there.kind == back.kind, (answer, gold)


@given(SCALARS)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_value_equals_itself_and_never_its_successor(tree: Node) -> None:
    warm()
    text = latex(tree)
    read = parse(text)
    if read is None or isinstance(exact.value(read), exact.Undefined) or not is_defined(read):
        return
    assert verdict(f"\\boxed{{{text}}}", text) == "correct"
    following = parse(f"({text})+1")
    assert following is None or (settle(following, read) or algebra.decide(following, read)).kind != "correct"


@pytest.mark.parametrize(
    "undefined", ["\\frac{0}{0}", "\\frac{1}{0}", "0^0", "\\tan\\frac{\\pi}{2}", "\\ln 0", "\\frac{1}{\\sin\\pi}", "\\cot 0", "\\frac{1}{\\sqrt4-2}"]
)
@pytest.mark.parametrize("gold", ["12.8", "0", "\\infty", "x"])
def test_what_has_no_value_equals_nothing(undefined: str, gold: str) -> None:
    assert of_answer(undefined, gold) != "correct"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("\\sqrt{2}+10^{-60}", "\\sqrt2"),
        ("\\frac{1}{3^{70}}", "\\frac{1}{3^{71}}"),
        ("10^{20}+1", "10^{20}"),
        ("\\arctan\\frac17+\\ln(1+10^{-50})", "\\arctan\\frac17"),
        ("e^{\\pi\\sqrt{163}}", "640320^3+744"),
        ("\\cos(10^{-40})", "1"),
        ("x(1+10^{-80})", "x"),
        ("x+10^{-120}", "x"),
    ],
)
def test_what_differs_far_behind_the_point_is_different(answer: str, gold: str) -> None:
    assert of_answer(answer, gold) == "wrong"


@pytest.mark.parametrize(
    "tower", ["9^{9^{9}}", "(10^9)!", "\\binom{10^{12}}{10^6}", "2^{10^{12}}", "\\sum_{k=1}^{10^9}k", "\\sqrt[1000000]{2}", "10^{10^{10}}"]
)
def test_what_is_too_large_is_refused_before_any_arithmetic(tower: str) -> None:
    assert of_answer(tower, "12.8") == "no_answer"


def test_points_are_the_same_for_the_same_names() -> None:
    assert numeric.points(["x", "y"]) == numeric.points(["x", "y"])
    assert len({tuple(point.values()) for point in numeric.points(["x", "y"])}) == len(numeric.points(["x", "y"]))
