"""What an answer says once names, chains and signs are read: x = 27/3 = 9 says 9 and calls it x.

Owns the policies of assignments, chains, approximations and plus-minus. Pure tree to tree; called by the comparison in parent and child alike.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

from verifier import exact
from verifier.nodes import Kind, Node

CONSTANTS = frozenset(("\\pi", "e", "i"))
MAX_SIGNS = 4
_NAMES = (Kind.NAME, Kind.WORD, Kind.APPLY)
_RATIOS = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))


class Said:
    """A value with the name it was given: `name` is None without one; `members` are the other links of its chain, `near` its decimals after ≈."""

    __slots__ = ("also", "members", "name", "near", "value")

    def __init__(
        self, value: Node, name: Node | None = None, members: tuple[Node, ...] = (), near: tuple[Node, ...] = (), also: tuple[Node, ...] = ()
    ) -> None:
        self.value, self.name, self.members, self.near, self.also = value, name, members, near, also


def said(node: Node) -> Said:
    """Read a chain of equalities; anything else says itself."""
    if node.kind is Kind.LIST:
        return _said_list(node)
    if node.kind is not Kind.RELATION or set(node.text.split()) - {"=", "~"}:
        return Said(node)
    operators, sides = node.text.split(), node.items
    name = None
    if is_name(sides[0]):
        name, sides, operators = sides[0], sides[1:], operators[1:]
    elif len(sides) == 2 and operators == ["="] and is_name(sides[1]) and not free_names(sides[0]):
        return Said(sides[0], sides[1])
    elif any(free_names(side) for side in sides):
        return Said(node)
    exact_sides = [sides[0]] + [side for operator, side in zip(operators, sides[1:], strict=True) if operator == "="]
    near = tuple(side for operator, side in zip(operators, sides[1:], strict=True) if operator == "~")
    return Said(exact_sides[-1], name, tuple(exact_sides[:-1]), near)


def _said_list(node: Node) -> Said:
    """`x=2, x=3` says a list of x; `n=2,3,4` too; `x=5, y=9` says the tuple (x,y)."""
    parts = [said(item) for item in node.items]
    if parts[0].name is None:
        return Said(node)
    if all(part.name is None for part in parts[1:]):
        if any(item.kind is Kind.RELATION for item in node.items[1:]):
            return Said(node)
        return Said(Node(Kind.LIST, node.text, tuple(part.value for part in parts)), parts[0].name)
    if any(part.name is None or part.members or part.near for part in parts):
        return Said(node)
    names = [part.name for part in parts if part.name is not None]
    if all(name == names[0] for name in names):
        return Said(Node(Kind.LIST, node.text, tuple(part.value for part in parts)), names[0])
    keyed = sorted(((label(name), part.value) for name, part in zip(names, parts, strict=True)), key=lambda pair: pair[0])
    if len({label for label, _ in keyed}) < len(keyed) or node.text == "or":
        return Said(node)
    also = (Node(Kind.LIST, ",", tuple(value for _, value in keyed)),) if len({label.partition("_")[0] for label, _ in keyed}) == 1 else ()
    return Said(
        Node(Kind.TUPLE, "(", tuple(value for _, value in keyed)),
        also=also,
        name=Node(Kind.TUPLE, "(", tuple(Node(Kind.NAME, label) for label, _ in keyed)),
    )


def are_numbered(mine: Said, theirs: Said) -> bool:
    """`x_1=2, x_2=5` names the values of x."""
    named, numbered = (theirs, mine) if mine.also else (mine, theirs)
    if not numbered.also or named.also or named.name is None or numbered.name is None:
        return False
    return {item.text.partition("_")[0] for item in numbered.name.items} == {label(named.name)}


def listed(node: Node, other: Node) -> Node:
    """`x \\in \\{1,2\\}` beside a bare list is `x=1, x=2`."""
    if node.kind is not Kind.RELATION or node.text != "in" or other.kind is not Kind.LIST or not is_name(node.items[0]):
        return node
    return node.items[1] if node.items[1].kind is Kind.SET and node.items[1].items else node


def label(name: Node) -> str:
    return name.text + "(" + ",".join(label(item) for item in name.items) + ")" if name.items else name.text


def is_name(node: Node) -> bool:
    """True for what an answer may call itself: x, f(2), CD, CD/AB, P(A), (x,y), sin A."""
    if node.kind in _NAMES:
        return True
    if node.kind is Kind.PRODUCT:
        return all(item.kind in _NAMES for item in node.items)
    if node.kind in (Kind.QUOTIENT, Kind.RATIO):
        return all(is_name(item) and item.text not in CONSTANTS for item in node.items)
    if node.kind is Kind.CALL and node.text in _RATIOS:
        return node.items[0].kind in (Kind.NAME, Kind.WORD) and bool(free_names(node.items[0]))
    if node.kind is Kind.CALL and node.text == "abs":
        return (node.items[0].kind is Kind.WORD and node.items[0].text.isupper()) or (node.items[0].kind is Kind.NAME and " " in node.items[0].text)
    return node.kind is Kind.TUPLE and all(item.kind in _NAMES for item in node.items)


def free_names(node: Node) -> set[str]:
    """Names that stand for unknowns: all but pi, e, i."""
    if node.kind is Kind.NAME:
        return set() if node.text in CONSTANTS else {node.text}
    if node.kind is Kind.WORD:
        return set(node.text)
    if node.kind is Kind.SERIES:
        return free_names(node.items[1]) | free_names(node.items[2]) | free_names(node.items[3]) - {node.items[0].text}
    names = {node.text} if node.kind is Kind.APPLY else set()
    for item in node.items:
        names |= free_names(item)
    return names


def has_sign(node: Node) -> bool:
    return node.kind in (Kind.PLUS_MINUS, Kind.MINUS_PLUS) or any(has_sign(item) for item in node.items)


def spread(node: Node) -> list[Node] | None:
    """Every choice of the ± in a tree, at most 2⁴; with a ∓ in it all signs are linked. None: too many."""
    if not has_sign(node):
        return [node]
    signs = list(_signs(node))
    linked = Kind.MINUS_PLUS in signs and len(signs) > 1
    count = 1 if linked else len(signs)
    if count > MAX_SIGNS:
        return None
    found = []
    for pattern in range(1 << count):
        choices = [(pattern if linked else pattern >> index) & 1 for index in range(len(signs))]
        found.append(_choose(node, iter(choices)))
    return found


def _signs(node: Node) -> Iterator[Kind]:
    if node.kind in (Kind.PLUS_MINUS, Kind.MINUS_PLUS):
        yield node.kind
    for item in node.items:
        yield from _signs(item)


def _choose(node: Node, choices: Iterator[int]) -> Node:
    if node.kind in (Kind.PLUS_MINUS, Kind.MINUS_PLUS):
        negative = bool(next(choices)) != (node.kind is Kind.MINUS_PLUS)
        inner = _choose(node.items[0], choices)
        return Node(Kind.NEGATIVE, "", (inner,)) if negative else inner
    if not node.items:
        return node
    return Node(node.kind, node.text, tuple(_choose(item, choices) for item in node.items))


def is_near(node: Node, decimal: Node) -> bool:
    """True if a decimal after ≈ is a rounding of the value, to one unit of its last place."""
    shown = exact.value(decimal)
    value = rough(node)
    if not isinstance(shown, Fraction) or value is None:
        return False
    places = len(decimal.text.partition(".")[2]) if decimal.kind is Kind.NUMBER else 6
    return abs(value - float(shown)) <= 1.01 * 10.0**-places


def rough(node: Node) -> float | None:
    """A float of a constant tree, for checks that may only refute."""
    try:
        return _rough(node)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        return None


_CALLS: dict[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "ln": math.log,
    "exp": math.exp,
    "arctan": math.atan,
    "arcsin": math.asin,
    "arccos": math.acos,
    "abs": abs,
    "lg": math.log10,
}


def _rough(node: Node) -> float | None:
    known = exact.value(node)
    if isinstance(known, Fraction):
        return float(known)
    parts = [_rough(item) for item in node.items]
    if any(part is None for part in parts) or isinstance(known, exact.Undefined):
        return None
    values = [part for part in parts if part is not None]
    match node.kind:
        case Kind.NAME:
            return {"\\pi": math.pi, "e": math.e}.get(node.text)
        case Kind.SUM:
            return math.fsum(values)
        case Kind.PRODUCT:
            return math.prod(values)
        case Kind.QUOTIENT:
            return values[0] / values[1]
        case Kind.NEGATIVE:
            return -values[0]
        case Kind.POWER:
            return math.pow(values[0], values[1])
        case Kind.ROOT:
            return math.pow(values[0], 1 / values[1])
        case Kind.DEGREE | Kind.UNIT:
            return values[0]
        case Kind.CALL if node.text in _CALLS:
            return float(_CALLS[node.text](values[0]))
    return None
