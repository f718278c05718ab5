"""Sets of reals by their elementary pieces: two sets are equal if they hold the same ones.

All end points of both sides are sorted once; between and at them nothing changes, so membership is asked at each of these places only. Called by
the comparison of shapes; the order of two end points comes from outside (rationals in the parent, algebraic numbers in the child).
"""

import functools
from collections.abc import Callable

from verifier.nodes import Kind, Node

Order = Callable[[Node, Node], int | None]
MAX_ENDS = 128


class UnorderedError(Exception):
    """Two end points that the given order cannot compare, or a set that is none of reals."""


class EmptyIntervalError(Exception):
    """An interval with its ends the wrong way round."""


def same_set(answer: Node, gold: Node, order: Order) -> bool | None:
    """True or False where the order knows all end points; None otherwise."""
    try:
        ends = _sorted_ends([*_ends(answer), *_ends(gold)], order)
        places = {end: at for at, (_, group) in enumerate(ends) for end in group}
        first = 2 if ends and _is_infinite(ends[0][0]) and ends[0][0].kind is Kind.NEGATIVE else 0
        last = 2 * len(ends) - (2 if ends and ends[-1][0].kind is Kind.INFINITY else 0)
        for place in range(first, last + 1):
            if _holds(answer, place, places) != _holds(gold, place, places):
                return False
    except UnorderedError:
        return None
    except EmptyIntervalError:
        return False
    return True


def as_interval(node: Node) -> Node:
    return node if node.kind is not Kind.TUPLE else Node(Kind.INTERVAL, "()" if node.text == "(" else "[]", node.items)


def _ends(node: Node) -> list[Node]:
    match node.kind:
        case Kind.INTERVAL | Kind.TUPLE:
            if len(node.items) != 2 or node.text == "<":
                raise UnorderedError
            return list(node.items)
        case Kind.SET:
            return list(node.items)
        case Kind.UNION | Kind.INTERSECTION | Kind.DIFFERENCE:
            return [end for item in node.items for end in _ends(item)]
        case Kind.NUMBERS if node.text == "R":
            return []
    raise UnorderedError


def _sorted_ends(ends: list[Node], order: Order) -> list[tuple[Node, list[Node]]]:
    if len(ends) > MAX_ENDS:
        raise UnorderedError

    def compare(left: Node, right: Node) -> int:
        if left == right and left.kind is Kind.NUMBER:
            return 0
        sign = order(left, right)
        if sign is None:
            raise UnorderedError
        return sign

    for end in ends:
        compare(end, end)
    grouped: list[tuple[Node, list[Node]]] = []
    for end in sorted(ends, key=functools.cmp_to_key(compare)):
        if grouped and compare(grouped[-1][0], end) == 0:
            grouped[-1][1].append(end)
        else:
            grouped.append((end, [end]))
    return grouped


def _holds(node: Node, place: int, places: dict[Node, int]) -> bool:
    """Place 2k+1 is the k-th end point, 2k the gap before it."""
    match node.kind:
        case Kind.NUMBERS:
            return True
        case Kind.SET:
            return any(2 * places[item] + 1 == place for item in node.items)
        case Kind.UNION:
            return True in [_holds(item, place, places) for item in node.items]  # every interval is checked, not only up to the first
        case Kind.INTERSECTION:
            return False not in [_holds(item, place, places) for item in node.items]
        case Kind.DIFFERENCE:
            return _holds(node.items[0], place, places) and not _holds(node.items[1], place, places)
    interval = as_interval(node)
    low, high = (2 * places[end] + 1 for end in interval.items)
    if low > high or (low == high and interval.text != "[]"):
        raise EmptyIntervalError
    if (_is_infinite(interval.items[0]) and interval.text[0] == "[") or (_is_infinite(interval.items[1]) and interval.text[1] == "]"):
        raise EmptyIntervalError
    return low < place < high or (place == low and interval.text[0] == "[") or (place == high and interval.text[1] == "]")


def _is_infinite(node: Node) -> bool:
    return node.kind is Kind.INFINITY or (node.kind is Kind.NEGATIVE and node.items[0].kind is Kind.INFINITY)
