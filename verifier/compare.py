"""What the parent decides without sympy: same strings, rationals, words, and shapes of those.

Owns `settle` and the version of the rules. A None hands the pair to a worker of the sandbox, which calls `verifier.algebra.decide`.
"""

import re
from fractions import Fraction
from typing import Literal

import msgspec

from verifier import exact
from verifier.answers import fold, strip
from verifier.nodes import Kind, Node
from verifier.normalise import normalise
from verifier.readings import free_names
from verifier.shapes import Judge

RULES_VERSION = "2"
"""Part of every cache key: changed with any rule that can change a verdict."""


class Decision(msgspec.Struct, frozen=True):
    kind: Literal["correct", "wrong", "no_answer", "undecided"]
    stage: str


CORRECT = Decision("correct", "parent")
WRONG = Decision("wrong", "parent")


def settle(answer: Node, gold: Node, *, answer_text: str = "", gold_text: str = "") -> Decision | None:
    """The verdict where strings, rationals and shapes of them suffice; None where a worker must decide."""
    if answer.kind is Kind.NUMBER and gold.kind is Kind.NUMBER:
        return CORRECT if answer.text == gold.text else WRONG
    if answer_text and gold_text and is_defined(gold) and _same_string(answer_text, gold_text):
        return CORRECT
    if Kind.TEXT in (answer.kind, gold.kind) and _same_words(answer_text, gold_text, is_gold_text=gold.kind is Kind.TEXT):
        return CORRECT
    try:
        result = _JUDGE.equal(answer, gold)
    except exact.OutOfBoundsError:
        return None
    return None if result is None else CORRECT if result else WRONG


def _same_string(answer: str, gold: str) -> bool:
    if answer == gold:
        return True
    mine, theirs = normalise(answer), normalise(gold)
    return mine is not None and theirs is not None and strip(mine) == strip(theirs)


def _same_words(answer: str, gold: str, *, is_gold_text: bool) -> bool:
    """Plain words beside `\\text{...}`: `June 20`, `no solution`, which the grammar may take for a product."""
    mine, theirs = fold(answer), fold(gold)
    return bool(mine) and mine == theirs and (is_gold_text or _WORDS.fullmatch(theirs) is not None)


_WORDS = re.compile(r"[a-z]{2,}(?: [a-z]{2,})*")
_RISKY_CALLS = frozenset(
    [
        "tan",
        "cot",
        "sec",
        "csc",
        "ln",
        "log",
        "lg",
        "logb",
        "coth",
        "arsinh",
        "arcosh",
        "artanh",
        "arcsin",
        "arccos",
        "arcsec",
        "arccsc",
        "mod",
        "factorial",
    ]
)


def is_defined(node: Node) -> bool:
    """True if the tree surely has a value: no zero can hide below a line."""
    if node.kind in (Kind.QUOTIENT, Kind.POWER):
        below = node.items[1] if node.kind is Kind.QUOTIENT else node.items[0]
        known = exact.value(below)
        if known is None and not free_names(below) and below.kind not in (Kind.ROOT, Kind.NAME, Kind.NUMBER):
            return False
        if known is not None and (isinstance(known, exact.Undefined) or known == 0):
            return False
    if node.kind is Kind.CALL and node.text in _RISKY_CALLS and not free_names(node):
        return False
    if node.kind in (Kind.INTERVAL, Kind.BUILDER):
        return _is_proper(node)
    return all(is_defined(item) for item in node.items)


def _is_proper(node: Node) -> bool:
    if node.kind is Kind.BUILDER:
        return False
    order = order_rationals(*node.items)
    return order is not None and order < 0


def scalars(answer: Node, gold: Node) -> bool | None:
    """Scalars in the parent: exact rationals, numbers of a base, infinity, single names."""
    if Kind.BASED in (answer.kind, gold.kind) or _is_negative_base(answer) or _is_negative_base(gold):
        return same_based(answer, gold)
    mine, theirs = exact.value(answer), exact.value(gold)
    if isinstance(mine, exact.Undefined) or isinstance(theirs, exact.Undefined):
        return False
    if mine is not None and theirs is not None:
        return mine == theirs
    signs = _infinity(answer), _infinity(gold)
    if signs != (0, 0):
        return None if signs[0] is None or signs[1] is None else signs[0] == signs[1]
    if answer == gold:
        return True if is_defined(gold) else None
    if answer.kind is Kind.NAME and gold.kind is Kind.NAME:
        return is_same_letter(answer.text, gold.text)
    if answer.kind is Kind.WORD and gold.kind is Kind.WORD and answer.text.lower() == gold.text.lower() and len(gold.text) > 1:
        return True
    if (answer.kind is Kind.NAME and theirs is not None) or (gold.kind is Kind.NAME and mine is not None):
        return False
    return None


def is_same_letter(answer: str, gold: str) -> bool:
    """Names are equal as they stand; a capital from A to J is a choice too, which small letters may name."""
    return answer == gold or (gold in "ABCDEFGHIJ" and len(answer) == 1 and answer.upper() == gold)


def _is_negative_base(node: Node) -> bool:
    return node.kind is Kind.NEGATIVE and node.items[0].kind is Kind.BASED


def same_based(answer: Node, gold: Node) -> bool | None:
    """Digits and base as the gold has them; a gold without a base takes the digits alone. Never the value: the gold asks for the base."""
    mine, theirs = _digits_and_base(answer), _digits_and_base(gold)
    if mine is None or theirs is None:
        return False
    return mine[0] == theirs[0] and (not theirs[1] or mine[1] == theirs[1])


def _digits_and_base(node: Node) -> tuple[str, str] | None:
    sign = ""
    if node.kind is Kind.NEGATIVE:
        sign, node = "-", node.items[0]
    if node.kind is Kind.BASED:
        digits, _, base = node.text.partition("_")
        return sign + digits, base
    return (sign + node.text, "") if node.kind in (Kind.NUMBER, Kind.WORD, Kind.NAME) else None


def _infinity(node: Node) -> int | None:
    """+1 or -1 for an infinity, 0 for anything without one, None where one hides inside."""
    if node.kind is Kind.INFINITY:
        return 1
    if node.kind is Kind.NEGATIVE:
        inner = _infinity(node.items[0])
        return None if inner is None else -inner
    return None if any(_infinity(item) != 0 for item in node.items) else 0


def order_rationals(left: Node, right: Node) -> int | None:
    """-1, 0 or 1 for two exact rationals or infinities; None otherwise."""
    signs = _infinity(left), _infinity(right)
    if None in signs:
        return None
    if signs != (0, 0):
        mine, theirs = signs[0] or 0, signs[1] or 0
        return (mine > theirs) - (mine < theirs)
    one, two = exact.value(left), exact.value(right)
    if not isinstance(one, Fraction) or not isinstance(two, Fraction):
        return None
    return (one > two) - (one < two)


def _relation(answer: Node, gold: Node) -> bool | None:
    return True if answer == gold and is_defined(gold) else None


_JUDGE = Judge(scalars, _relation, order_rationals)
