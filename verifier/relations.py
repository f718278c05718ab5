"""Conditions in one variable as sets of reals: -3 <= x <= 8, x < 1 or x > 3, x in [2, 5).

Owns the policy interval ↔ inequality. Pure tree to tree; called by the comparison of shapes.
"""

from verifier.nodes import Kind, Node
from verifier.readings import free_names, rough

REALS = Node(Kind.NUMBERS, "R")
_PLUS = Node(Kind.INFINITY)
_MINUS = Node(Kind.NEGATIVE, "", (_PLUS,))
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}
_SETS = frozenset((Kind.INTERVAL, Kind.UNION, Kind.INTERSECTION, Kind.DIFFERENCE, Kind.NUMBERS, Kind.SET))


def solution_set(node: Node) -> tuple[str | None, Node] | None:
    """The variable (None for a set that names none) and its set; None where the tree is no condition in one variable."""
    if node.kind in _SETS:
        return None, node
    if node.kind is Kind.TUPLE:
        return (None, node) if len(node.items) == 2 and node.text in "([" else None
    if node.kind is Kind.BUILDER:
        return _builder(node)
    if node.kind is Kind.LIST:
        return _joined(node)
    if node.kind is not Kind.RELATION:
        return None
    return _relation(node)


def _builder(node: Node) -> tuple[str | None, Node] | None:
    head, condition = node.items
    name = head
    if head.kind is Kind.RELATION and head.text == "in" and head.items[1] == REALS:
        name = head.items[0]
    inner = solution_set(condition)
    if name.kind is not Kind.NAME or inner is None or inner[0] not in (None, name.text):
        return None
    return None, inner[1]


def _joined(node: Node) -> tuple[str | None, Node] | None:
    parts = [solution_set(item) for item in node.items]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or len({name for name, _ in found}) != 1 or found[0][0] is None:
        return None
    sets = tuple(each for _, each in found)
    if node.text == "or":
        return found[0][0], Node(Kind.UNION, "", sets)
    if node.text == "and" or any(item.kind is Kind.RELATION and item.text == "!=" for item in node.items) or _overlap(sets):
        return found[0][0], Node(Kind.INTERSECTION, "", sets)
    return found[0][0], Node(Kind.UNION, "", sets)


def _overlap(sets: tuple[Node, ...]) -> bool:
    """`x > 2, x < 3` bounds x from both sides; `x < 2, x > 3` are two cases."""
    if any(each.kind is not Kind.INTERVAL for each in sets):
        return False
    lows = [rough(each.items[0]) for each in sets if not _is_infinite(each.items[0])]
    highs = [rough(each.items[1]) for each in sets if not _is_infinite(each.items[1])]
    known = [end for end in lows + highs if end is not None]
    return len(known) == len(lows) + len(highs) == len(sets) and bool(lows) and bool(highs) and max(known[: len(lows)]) < min(known[len(lows) :])


def _relation(node: Node) -> tuple[str | None, Node] | None:
    operators = node.text.split()
    absolute = _absolute(node)
    if absolute is not None:
        return absolute
    variables = [side for side in node.items if side.kind is Kind.NAME and free_names(side)]
    if len(variables) != 1 or any(free_names(side) for side in node.items if side is not variables[0]):
        return None
    name, at = variables[0].text, node.items.index(variables[0])
    if operators == ["in"]:
        inner = node.items[1]
        if at != 0 or (inner.kind not in _SETS and inner.kind is not Kind.TUPLE):
            return None
        return name, inner
    if len(operators) > 2 or any(operator not in _FLIPPED for operator in operators):
        return None
    halves = [_half(operators[at], node.items[at + 1])] if at < len(operators) else []
    if at > 0:
        halves.append(_half(_FLIPPED[operators[at - 1]], node.items[at - 1]))
    if len(halves) != len(operators):
        return None
    return name, halves[0] if len(halves) == 1 else _between(operators, node.items, Node(Kind.INTERSECTION, "", tuple(halves)))


_SUBJECT = Node(Kind.NAME, "?")


def _absolute(node: Node) -> tuple[str | None, Node] | None:
    """|x - c| on one side of bounds: the part of the set from 0 on, and its mirror."""
    sides = [side for side in node.items if side.kind is Kind.CALL and side.text == "abs"]
    if len(sides) != 1:
        return None
    inner, shift = sides[0].items[0], None
    if inner.kind is Kind.SUM and len(inner.items) == 2 and inner.items[0].kind is Kind.NAME and not free_names(inner.items[1]):
        inner, shift = inner.items
    distances = _relation(Node(Kind.RELATION, node.text, tuple(_SUBJECT if side is sides[0] else side for side in node.items)))
    if inner.kind is not Kind.NAME or not free_names(inner) or distances is None:
        return None
    right = Node(Kind.INTERSECTION, "", (distances[1], Node(Kind.INTERVAL, "[)", (Node(Kind.NUMBER, "0"), _PLUS))))
    moved = Node(Kind.UNION, "", (_mapped(right, shift, mirrored=False), _mapped(right, shift, mirrored=True)))
    return inner.text, moved


def _mapped(node: Node, shift: Node | None, *, mirrored: bool) -> Node:
    """The set with every end d at -shift + d, or at -shift - d."""
    if node.kind is Kind.INTERVAL:
        low, high = (_end(item, shift, mirrored=mirrored) for item in node.items)
        if not mirrored:
            return Node(Kind.INTERVAL, node.text, (low, high))
        return Node(Kind.INTERVAL, _mirror(node.text), (high, low))
    if node.kind is Kind.SET:
        return Node(Kind.SET, "", tuple(_end(item, shift, mirrored=mirrored) for item in node.items))
    return Node(node.kind, node.text, tuple(_mapped(item, shift, mirrored=mirrored) for item in node.items))


def _mirror(ends: str) -> str:
    return ("[" if ends[1] == "]" else "(") + ("]" if ends[0] == "[" else ")")


def _end(node: Node, shift: Node | None, *, mirrored: bool) -> Node:
    moved = (node.items[0] if node.kind is Kind.NEGATIVE else Node(Kind.NEGATIVE, "", (node,))) if mirrored else node
    if shift is None or _is_infinite(node):
        return moved
    return Node(Kind.SUM, "", (moved, Node(Kind.NEGATIVE, "", (shift,))))


def _is_infinite(node: Node) -> bool:
    return node.kind is Kind.INFINITY or (node.kind is Kind.NEGATIVE and node.items[0].kind is Kind.INFINITY)


def _between(operators: list[str], sides: tuple[Node, ...], general: Node) -> Node:
    """a < x <= b is one interval; a > x >= b is read from the right."""
    if operators[0] in ("<", "<=") and operators[1] in ("<", "<="):
        return Node(Kind.INTERVAL, ("(" if operators[0] == "<" else "[") + (")" if operators[1] == "<" else "]"), (sides[0], sides[2]))
    if operators[0] in (">", ">=") and operators[1] in (">", ">="):
        return Node(Kind.INTERVAL, ("(" if operators[1] == ">" else "[") + (")" if operators[0] == ">" else "]"), (sides[2], sides[0]))
    return general


def _half(operator: str, bound: Node) -> Node:
    match operator:
        case "<" | "<=":
            return Node(Kind.INTERVAL, "()" if operator == "<" else "(]", (_MINUS, bound))
        case ">" | ">=":
            return Node(Kind.INTERVAL, "()" if operator == ">" else "[)", (bound, _PLUS))
        case "=":
            return Node(Kind.SET, "", (bound,))
    return Node(Kind.DIFFERENCE, "", (REALS, Node(Kind.SET, "", (bound,))))
