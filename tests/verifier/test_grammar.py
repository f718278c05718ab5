"""The laws of the parser: it reads back what is printed, ignores style, and no text makes it raise, loop or grow."""

import sys
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from printing import latex

from verifier.answers import literal_value, parse, parse_gold
from verifier.extract import extract
from verifier.nodes import Kind, Node, decode, encode, within_bounds

MAX_CALLS = 120_000
"""Python calls for one text of 4 KiB; on the slowest machine tried that is 40 ms."""

DIGITS = st.integers(min_value=0, max_value=9999).map(lambda value: Node(Kind.NUMBER, str(value)))
DECIMALS = st.integers(min_value=1, max_value=999).filter(lambda value: value % 10 != 0).map(lambda value: Node(Kind.NUMBER, f"0.{value:03d}"))
REPEATING = st.integers(min_value=10, max_value=99).map(lambda value: Node(Kind.REPEATING, f"0.5({value})"))
NAMES = st.sampled_from(["x", "y", "n", "\\theta", "\\pi", "a_1", "x_2"]).map(lambda name: Node(Kind.NAME, name))


def _deeper(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda items: Node(Kind.SUM, "", tuple(items))),
        pairs.map(lambda items: Node(Kind.PRODUCT, "", items)),
        pairs.map(lambda items: Node(Kind.QUOTIENT, "", items)),
        inner.map(lambda item: Node(Kind.NEGATIVE, "", (item,))),
        st.tuples(NAMES, st.integers(min_value=2, max_value=9)).map(lambda pair: Node(Kind.POWER, "", (pair[0], Node(Kind.NUMBER, str(pair[1]))))),
        st.tuples(inner, st.sampled_from("235")).map(lambda pair: Node(Kind.ROOT, "", (pair[0], Node(Kind.NUMBER, pair[1])))),
        st.tuples(st.sampled_from(["sin", "cos", "ln", "abs", "floor"]), inner).map(lambda pair: Node(Kind.CALL, pair[0], (pair[1],))),
    )


SCALARS = st.recursive(st.one_of(DIGITS, DECIMALS, REPEATING, NAMES), _deeper, max_leaves=8)
ANSWERS = st.one_of(
    SCALARS,
    st.tuples(SCALARS, SCALARS).map(lambda items: Node(Kind.TUPLE, "(", items)),
    st.tuples(SCALARS, SCALARS).map(lambda items: Node(Kind.INTERVAL, "[)", items)),
    st.lists(SCALARS, min_size=1, max_size=4).map(lambda items: Node(Kind.SET, "", tuple(items))),
    st.tuples(SCALARS, SCALARS).map(lambda items: Node(Kind.RELATION, "<", items)),
)


@given(ANSWERS)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_is_printed_is_read_back(tree: Node) -> None:
    assert parse(latex(tree)) == tree


@given(SCALARS)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_style_and_space_change_nothing(tree: Node) -> None:
    text = latex(tree)
    plain = parse(text)
    dressed = text.replace("\\frac", "\\dfrac").replace("(", "\\left( ").replace(")", " \\right)").replace("+", " + \\,")
    for spelling in (dressed, f"${text}$", f"{text}.", f"\\displaystyle {text}", f"{{{text}}}", f" {text}\n", f"\\({text}\\)"):
        assert parse(spelling) == plain, spelling


@given(ANSWERS)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_bytes_of_a_tree_are_read_back(tree: Node) -> None:
    assert decode(encode(tree)) == tree


def calls_of(text: str) -> int:
    """Python calls that it takes to extract and parse a text."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        extract(text, "all")
        tree = parse(text)
        literal_value(text)
    finally:
        sys.setprofile(None)
    assert tree is None or within_bounds(tree)
    return calls


PIECES = [
    "\\frac",
    "\\sqrt",
    "\\boxed",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "\\{",
    "\\}",
    "|",
    "^",
    "_",
    "1",
    "23",
    "x",
    "+",
    "-",
    "\\pm",
    ",",
    ";",
    "=",
    "<",
    "\\le",
    "\\text",
    "$",
    "\\(",
    "\\)",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "&",
    "\\\\",
    "!",
    "%",
    "\\%",
    "\\sin",
    "\\log",
    "e",
    "i",
    "f(",
    "\\sum_{k=1}^{9}",
    "\\int_0^1",
    "dx",
    " and ",
    " or ",
    "cm",
    "\\overline",
    ".",
    "0.",
    "\\cup",
    "\\infty",
    ":",
    "\\binom",
    "answer is",
    "####",
    "<think>",
    "</think>",
    "\u2212",
    "\u00bd",
    "\u0661",
    "\ud800",
    "\x00",
    "\u202e",
    "\n",
    "  ",
    "\\left",
    "\\right",
    "\\over",
    "^{\\circ}",
]


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
@settings(max_examples=600, deadline=None, derandomize=True)
def test_no_text_of_the_language_raises_or_takes_long(text: str) -> None:
    assert calls_of(text) < MAX_CALLS


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_text_at_all_raises(text: str) -> None:
    assert calls_of(text) < MAX_CALLS


@pytest.mark.parametrize("piece", PIECES)
def test_a_page_of_one_piece_takes_a_bounded_number_of_steps(piece: str) -> None:
    page = (piece * 4096)[:4096]
    assert calls_of(page) < MAX_CALLS
    assert calls_of("1" + page) < MAX_CALLS
    assert calls_of("\\boxed{" + page[:4000] + "}") < MAX_CALLS


@pytest.mark.parametrize("gold", ["", " ", "\\frac{1}{0}", "{", "8^{8^{8^8}}", "(10^9)!", "9" * 5000, "\\frac00"])
def test_a_gold_without_a_value_is_refused_in_one_sentence(gold: str) -> None:
    with pytest.raises(ValueError, match="the gold answer"):
        parse_gold(gold)


@pytest.mark.parametrize(
    ("answer", "is_literal"),
    [
        ("12.8", True),
        ("-\\frac12", True),
        ("\\$5", True),
        ("50\\%", True),
        ("3+4", False),
        ("x", False),
        ("2\\cdot 3", False),
        ("\\sqrt4", False),
        ("1,234", True),
    ],
)
def test_a_literal_is_one_number_or_fraction(answer: str, is_literal: bool) -> None:
    assert literal_value(answer) is is_literal


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\xa6number\xa11\x91", encode(Node(Kind.NUMBER, "1"))[:-1], b"\x93\xa3sum\xa0\x90"])
def test_bytes_that_are_no_tree_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="tree"):
        decode(data)
