"""Numbers that refute: trees at points, in two precisions, by mpmath.

Owns the question "are these surely different?". Never says that two trees are equal. Runs in the sandboxed child only.
"""

from collections.abc import Sequence
from fractions import Fraction

import mpmath
from mpmath import mp

from verifier import exact
from verifier.nodes import Kind, Node

Point = dict[str, Fraction]
NUM_POINTS = 8
_PRECISIONS = (40, 80, 400)
_HUGE = 10**6


class UndefinedValueError(Exception):
    """The tree has no value at this point."""


def points(names: Sequence[str]) -> list[Point]:
    """Fixed real points, then positive integers: the same for the same names."""
    found: list[Point] = []
    for turn in range(NUM_POINTS):
        point = {}
        for at, name in enumerate(names):
            size = Fraction(17 + (53 * turn + 29 * at * (turn + 2) + 11 * at * at) % 89, 31)
            negative = (turn % 2 == 1 and (at + turn // 2) % 2 == 0) or turn >= 6
            point[name] = -size if negative else size
        found.append(point)
    found.extend({name: Fraction(2 + (3 * turn + 2 * at) % 7) for at, name in enumerate(names)} for turn in range(3))
    return found if names else [{}]


def positive_points(names: Sequence[str]) -> list[Point]:
    """Fixed points with all names positive."""
    return [{name: abs(value) for name, value in point.items()} for point in points(names)[: NUM_POINTS // 2]]


def differ(left: Node, right: Node, point: Point, *, is_complex: bool) -> bool | None:
    """True: surely different there. False: the same to hundreds of digits. None: one side has no value there."""
    for digits in _PRECISIONS[:1] if _has_integral(left) or _has_integral(right) else _PRECISIONS:
        with mp.workdps(digits + 20):
            try:
                one, two = evaluate(left, point, is_complex), evaluate(right, point, is_complex)
            except (UndefinedValueError, ValueError, ZeroDivisionError, OverflowError, mpmath.libmp.NoConvergence, NotImplementedError, TypeError):
                return None
            gap, scale = abs(one - two), max(abs(one), abs(two), mp.mpf(10) ** -30)
            if gap > scale * mp.mpf(10) ** (-digits // 2):
                return True
    return False


def _has_integral(node: Node) -> bool:
    return (node.kind is Kind.SERIES and node.text == "integral") or any(_has_integral(item) for item in node.items)


def evaluate(node: Node, point: Point, is_complex: bool) -> "mpmath.mpf":
    """The value in the current precision. Raises UndefinedValueError where there is none, or none that is real where only reals count."""
    value = _value(node, point, is_complex)
    if not mpmath.isfinite(value):
        raise UndefinedValueError
    if mpmath.im(value) != 0:
        if not is_complex:
            raise UndefinedValueError
        return value
    return mpmath.re(value)


def _value(node: Node, point: Point, is_complex: bool) -> "mpmath.mpf":
    if node.kind in (Kind.NUMBER, Kind.REPEATING, Kind.MIXED) or (node.kind is Kind.CALL and node.text in ("gcd", "lcm", "mod")):
        known = exact.value(node)
        if not isinstance(known, Fraction):
            raise UndefinedValueError
        return mp.mpf(known.numerator) / known.denominator
    if node.kind is Kind.NAME:
        return _name(node.text, point)
    if node.kind is Kind.SERIES:
        return _series(node, point, is_complex)
    if node.kind is Kind.CALL and node.text == "derivative":
        return _derivative(node, point, is_complex)
    if node.kind is Kind.WORD:
        return mpmath.fprod([_name(letter, point) for letter in node.text])
    parts = [evaluate(item, point, is_complex) for item in node.items]
    match node.kind:
        case Kind.SUM:
            return mpmath.fsum(parts)
        case Kind.PRODUCT:
            return mpmath.fprod(parts)
        case Kind.QUOTIENT:
            return _divide(parts[0], parts[1])
        case Kind.NEGATIVE:
            return -parts[0]
        case Kind.POWER:
            return _power(parts[0], parts[1], node.items[1])
        case Kind.ROOT:
            return _root(parts[0], parts[1], is_complex)
        case Kind.PERCENT:
            return parts[0] / 100
        case Kind.DEGREE:
            return parts[0] * mp.pi / 180
        case Kind.CALL:
            return _call(node.text, parts, is_complex)
        case Kind.APPLY:
            return _opaque(node.text, parts)
    raise UndefinedValueError


def _name(name: str, point: Point) -> "mpmath.mpf":
    if name in point:
        value = point[name]
        return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value
    if name == "\\pi":
        return +mp.pi
    if name == "e":
        return +mp.e
    if name == "i":
        return mp.mpc(0, 1)
    raise UndefinedValueError


def _divide(above: "mpmath.mpf", below: "mpmath.mpf") -> "mpmath.mpf":
    if abs(below) < mp.mpf(10) ** (-mp.dps + 15):
        raise UndefinedValueError
    return above / below


def _power(base: "mpmath.mpf", exponent: "mpmath.mpf", tree: Node) -> "mpmath.mpf":
    if abs(exponent) > _HUGE:
        raise UndefinedValueError
    if base == 0 and mpmath.re(exponent) <= 0:
        raise UndefinedValueError
    if mpmath.im(base) == 0 and mpmath.re(base) < 0:
        known = exact.value(tree)
        if isinstance(known, Fraction) and known.denominator % 2 == 1 and known.denominator > 1:
            size = (-base) ** exponent
            return size if known.numerator % 2 == 0 else -size
    return mpmath.power(base, exponent)


def _root(radicand: "mpmath.mpf", index: "mpmath.mpf", is_complex: bool) -> "mpmath.mpf":
    if index == 0:
        raise UndefinedValueError
    if mpmath.im(radicand) == 0 and radicand < 0 and mpmath.isint(index) and int(index) % 2 == 1:
        return -mpmath.power(-radicand, 1 / index)
    if radicand == 0 and mpmath.re(index) < 0:
        raise UndefinedValueError
    return mpmath.sqrt(radicand) if index == 2 else mpmath.power(radicand, 1 / index)


_CALLS = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot, "sec": mpmath.sec, "csc": mpmath.csc, "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "tanh": mpmath.tanh, "coth": mpmath.coth, "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "arccot": mpmath.acot,
    "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc, "arsinh": mpmath.asinh, "arcosh": mpmath.acosh, "artanh": mpmath.atanh, "exp": mpmath.exp, "abs": mpmath.fabs,
    "floor": mpmath.floor,
    "ceil": mpmath.ceil, "Re": mpmath.re, "Im": mpmath.im, "sign": mpmath.sign, "arg": mpmath.arg,
}  # fmt: skip


def _call(name: str, parts: "list[mpmath.mpf]", is_complex: bool) -> "mpmath.mpf":
    first = parts[0]
    if name in ("sin", "cos", "tan", "cot", "sec", "csc", "exp", "sinh", "cosh", "tanh") and abs(first) > _HUGE:
        raise UndefinedValueError
    if (name in ("tan", "sec") and abs(mpmath.cos(first)) < mp.mpf(10) ** (-mp.dps + 15)) or (
        name in ("cot", "csc") and abs(mpmath.sin(first)) < mp.mpf(10) ** (-mp.dps + 15)
    ):
        raise UndefinedValueError
    if name in _CALLS:
        return _CALLS[name](first)
    if name in ("ln", "log", "lg", "logb"):
        if first == 0 or (name == "logb" and parts[1] in (0, 1)):
            raise UndefinedValueError
        below = mpmath.log(10) if name == "lg" else mpmath.log(parts[1]) if name == "logb" else mp.mpf(1)
        return mpmath.log(first) / below
    if name == "factorial":
        if abs(first) > 10_000 or first < 0:
            raise UndefinedValueError
        return mpmath.gamma(first + 1)
    if name == "binom":
        if max(abs(parts[0]), abs(parts[1])) > 10_000:
            raise UndefinedValueError
        return mpmath.binomial(*parts)
    if name in ("max", "min"):
        return max(parts) if name == "max" else min(parts)
    if name == "cis":
        return mpmath.expjpi(first / mp.pi)
    raise UndefinedValueError


def _derivative(node: Node, point: Point, is_complex: bool) -> "mpmath.mpf":
    body, name = node.items[0], node.items[1].text
    if name not in point:
        raise UndefinedValueError
    return mpmath.diff(lambda at: _value(body, {**point, name: at}, is_complex), _name(name, point))


def _integral(node: Node, point: Point, is_complex: bool) -> "mpmath.mpf":
    if mp.dps > 110:
        raise UndefinedValueError
    start, end = evaluate(node.items[1], point, is_complex), evaluate(node.items[2], point, is_complex)
    return mpmath.quad(lambda at: _value(node.items[3], {**point, node.items[0].text: at}, is_complex), [start, end])


def _series(node: Node, point: Point, is_complex: bool) -> "mpmath.mpf":
    if node.text == "integral":
        return _integral(node, point, is_complex)
    start, end = (exact.value(item) for item in node.items[1:3])
    if not isinstance(start, Fraction) or not isinstance(end, Fraction) or end - start > exact.MAX_TERMS:
        raise UndefinedValueError
    terms = [evaluate(node.items[3], point | {node.items[0].text: Fraction(index)}, is_complex) for index in range(int(start), int(end) + 1)]
    return mpmath.fsum(terms) if node.text == "sum" else mpmath.fprod(terms)


def _opaque(name: str, parts: "list[mpmath.mpf]") -> "mpmath.mpf":
    """An unknown function as some smooth function of its own: two that differ here differ as unknowns."""
    seed = sum(ord(letter) * (at + 3) for at, letter in enumerate(name))
    total = mp.mpf(seed) / 7
    for at, part in enumerate(parts):
        total += mpmath.sin(part * (at + 2) / 3 + seed) + part * (seed % 5 + 1) / (at + 3)
    return total
