"""Sums and products of matrices as one matrix of unevaluated entries.

Owns matrix arithmetic and its bounds; entries stay trees and are compared like any other. Called by the comparison of shapes.
"""

from collections.abc import Callable

from verifier.nodes import Kind, Node

MAX_PRODUCT_SIDE = 6
MAX_POWER = 8


def reduced(node: Node) -> Node:
    """The matrix that an expression of matrices is; the node itself where it is none."""
    if not any(_holds_matrix(item) for item in node.items):
        return node
    items = tuple(reduced(item) for item in node.items)
    match node.kind:
        case Kind.SUM:
            found = _sum(items)
        case Kind.PRODUCT:
            found = _product(items)
        case Kind.NEGATIVE:
            found = _each(items[0], lambda entry: Node(Kind.NEGATIVE, "", (entry,)))
        case Kind.QUOTIENT:
            found = None if _holds_matrix(items[1]) else _each(items[0], lambda entry: Node(Kind.QUOTIENT, "", (entry, items[1])))
        case Kind.POWER:
            found = _power(items[0], items[1])
        case _:
            found = None
    return found or node


def _holds_matrix(node: Node) -> bool:
    return node.kind is Kind.MATRIX or (
        node.kind in (Kind.SUM, Kind.PRODUCT, Kind.NEGATIVE, Kind.QUOTIENT, Kind.POWER) and any(_holds_matrix(item) for item in node.items)
    )


def _each(matrix: Node, change: Callable[[Node], Node]) -> Node | None:
    return Node(Kind.MATRIX, matrix.text, tuple(change(entry) for entry in matrix.items)) if matrix.kind is Kind.MATRIX else None


def _sum(items: tuple[Node, ...]) -> Node | None:
    if any(item.kind is not Kind.MATRIX or item.text != items[0].text for item in items):
        return None
    return Node(Kind.MATRIX, items[0].text, tuple(Node(Kind.SUM, "", entries) for entries in zip(*(item.items for item in items), strict=True)))


def _product(items: tuple[Node, ...]) -> Node | None:
    scalars = tuple(item for item in items if item.kind is not Kind.MATRIX)
    matrices = [item for item in items if item.kind is Kind.MATRIX]
    if len(matrices) > 4:
        return None
    total: Node | None = matrices[0]
    for factor in matrices[1:]:
        total = None if total is None else _times(total, factor)
    if total is None or not scalars:
        return total
    return _each(total, lambda entry: Node(Kind.PRODUCT, "", (*scalars, entry)))


def _times(left: Node, right: Node) -> Node | None:
    rows, inner = (int(size) for size in left.text.split())
    again, columns = (int(size) for size in right.text.split())
    if inner != again or max(rows, inner, columns) > MAX_PRODUCT_SIDE:
        return None
    entries = []
    for row in range(rows):
        for column in range(columns):
            terms = tuple(Node(Kind.PRODUCT, "", (left.items[row * inner + at], right.items[at * columns + column])) for at in range(inner))
            entries.append(terms[0] if inner == 1 else Node(Kind.SUM, "", terms))
    return Node(Kind.MATRIX, f"{rows} {columns}", tuple(entries))


def _power(base: Node, exponent: Node) -> Node | None:
    if (
        base.kind is not Kind.MATRIX
        or exponent.kind is not Kind.NUMBER
        or not exponent.text.isdigit()
        or not 1 <= int(exponent.text[:2]) <= MAX_POWER
    ):
        return None
    total: Node | None = base
    for _ in range(int(exponent.text) - 1):
        total = None if total is None or _size(total) > 512 else _times(total, base)
    return total


def _size(node: Node) -> int:
    return 1 + sum(_size(item) for item in node.items)
