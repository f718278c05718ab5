"""What a tree must keep to before anybody computes with it: operands of the right sort, size, names, powers that stay small.

Owns these refusals; all of them are counted, none is timed, so that they are the same on every machine. Called by `verifier.answers`.
"""

from fractions import Fraction

from verifier import exact
from verifier.nodes import Kind, Node, within_bounds

MAX_NAMES = 12
MAX_SIGNS = 16
MAX_EXPANDED_EXPONENT = 200
_ATOMS = frozenset((Kind.NUMBER, Kind.REPEATING, Kind.BASED, Kind.NAME, Kind.WORD, Kind.INFINITY))
_OPERATIONS = frozenset(
    (Kind.SUM, Kind.PRODUCT, Kind.QUOTIENT, Kind.NEGATIVE, Kind.PLUS_MINUS, Kind.MINUS_PLUS, Kind.POWER, Kind.ROOT, Kind.MIXED, Kind.CALL)
) | {Kind.APPLY, Kind.SERIES, Kind.PERCENT, Kind.DEGREE, Kind.MATRIX, Kind.DETERMINANT}
_SCALARS = _ATOMS | _OPERATIONS
_ARITHMETIC = _OPERATIONS | {Kind.UNIT, Kind.RATIO}
_SETS = frozenset((Kind.SET, Kind.INTERVAL, Kind.UNION, Kind.INTERSECTION, Kind.DIFFERENCE, Kind.NUMBERS, Kind.BUILDER, Kind.TUPLE))


def is_sound(node: Node) -> bool:
    """True if every operation has operands of its sort: numbers in arithmetic, sets in unions."""
    if node.kind in _ARITHMETIC:
        return all((item.kind in _SCALARS or node.kind is Kind.UNIT) and is_sound(item) for item in node.items)
    if node.kind in (Kind.UNION, Kind.INTERSECTION, Kind.DIFFERENCE):
        return all(item.kind in _SETS and is_sound(item) for item in node.items)
    return all(is_sound(item) for item in node.items)


def is_bounded(node: Node) -> bool:
    """True if the tree keeps to every bound; estimates all powers and factorials on the way."""
    if not within_bounds(node):
        return False
    names: set[str] = set()
    pending = [node]
    plus_minus = 0
    while pending:
        each = pending.pop()
        if each.kind is Kind.NAME:
            names.add(each.text)
        plus_minus += each.kind in (Kind.PLUS_MINUS, Kind.MINUS_PLUS)
        if each.kind in (Kind.NUMBER, Kind.REPEATING, Kind.BASED) and len(each.text) > exact.MAX_DIGITS:
            return False
        pending.extend(each.items)
    if len(names) > MAX_NAMES or plus_minus > MAX_SIGNS:
        return False
    try:
        return _estimate(node)
    except exact.OutOfBoundsError:
        return False


def _estimate(node: Node) -> bool:
    """Evaluate what is rational, which raises where an estimate is out of bounds; refuse powers of sums that expand too far."""
    if node.kind in _SCALARS:
        exact.value(node)
        if node.kind is Kind.POWER and node.items[1].kind is Kind.NUMBER and not isinstance(exact.value(node.items[0]), Fraction):
            exponent = exact.literal(node.items[1].text)
            if (exponent > MAX_EXPANDED_EXPONENT and node.items[0].kind is not Kind.NAME) or exponent > exact.MAX_EXPONENT:
                return node.items[0].kind in (Kind.WORD, Kind.ROOT, Kind.NAME) and exponent <= exact.MAX_EXPONENT
    return all(_estimate(item) for item in node.items)
