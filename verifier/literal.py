"""What `reward.literal` lets be correct: one number or fraction, with nothing left to compute.

Called by the verifier and the rewards; copying arithmetic from the question into the box must not pay.
"""

from verifier.answers import parse
from verifier.nodes import Kind, Node

_NUMBERS = frozenset((Kind.NUMBER, Kind.REPEATING, Kind.MIXED, Kind.BASED))
_DECORATED = (Kind.UNIT, Kind.PERCENT, Kind.DEGREE)


def literal_value(answer: str) -> bool:
    """True if the text is one number or fraction; a sign, a unit, a percent or degree sign do not count."""
    node = parse(answer)
    if node is None:
        return False
    node = _unsigned(node.items[0] if node.kind in _DECORATED else node)
    if node.kind is Kind.QUOTIENT:
        return all(_unsigned(item).kind is Kind.NUMBER for item in node.items)
    return node.kind in _NUMBERS


def _unsigned(node: Node) -> Node:
    return node.items[0] if node.kind is Kind.NEGATIVE else node
