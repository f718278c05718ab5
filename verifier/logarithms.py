"""What `\\log` without a base means.

Owns one policy: where the gold writes it, natural and decimal are both tried; where the answer alone does, it is decimal for powers of
ten and natural otherwise.
Pure tree to tree; called by the child.
"""

from fractions import Fraction

from verifier import exact
from verifier.nodes import Kind, Node


def readings(answer: Node, gold: Node) -> list[tuple[Node, Node]]:
    """The pairs to compare, one of which has to be equal."""
    mine, theirs = _mentions(answer), _mentions(gold)
    if theirs:
        return [(answer, gold), (_decimal(answer, always=True), _decimal(gold, always=True))]
    return [(_decimal(answer, always=False), gold)] if mine else [(answer, gold)]


def _mentions(node: Node) -> bool:
    return (node.kind is Kind.CALL and node.text == "log") or any(_mentions(item) for item in node.items)


def _decimal(node: Node, *, always: bool) -> Node:
    items = tuple(_decimal(item, always=always) for item in node.items)
    is_log = node.kind is Kind.CALL and node.text == "log"
    return Node(node.kind, "lg" if is_log and (always or _is_power_of_ten(items[0])) else node.text, items)


def _is_power_of_ten(node: Node) -> bool:
    value = exact.value(node)
    if not isinstance(value, Fraction) or value <= 0 or value == 1:
        return False
    digits = str(value.numerator if value > 1 else value.denominator)
    return (value.denominator if value > 1 else value.numerator) == 1 and len(digits) < 400 and digits.rstrip("0") == "1"
