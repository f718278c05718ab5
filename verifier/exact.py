"""Exact rational values of trees, and the estimates that keep arithmetic small.

Owns every bound on digits, exponents and factorials. `value` answers with a Fraction, with UNDEFINED (a zero below a line and its like), or with
None where the tree is no rational that this module can prove. Nothing here works on a number of more than MAX_BITS bits. Knows no sympy.
"""

import math
from fractions import Fraction
from typing import Final

from verifier.nodes import Kind, Node

MAX_BITS = 1 << 16
MAX_EXPONENT = 10_000
MAX_DIGITS = 4300
MAX_TERMS = 1000


class Undefined:
    """A tree that has no value."""


class OutOfBoundsError(Exception):
    """A value beyond the bounds: the answer is refused, before any arithmetic."""


UNDEFINED: Final = Undefined()
Value = Fraction | Undefined | None


def value(node: Node) -> Value:
    """The exact rational value. Raises OutOfBoundsError where the estimate passes the bounds."""
    rule = _RULES.get(node.kind)
    return None if rule is None else rule(node)


def literal(text: str) -> Fraction:
    """The value of a NUMBER's text."""
    whole, point, decimals = text.partition(".")
    if not point:
        return Fraction(int(whole))
    return Fraction(int(whole + decimals), 10 ** len(decimals))


def bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


def checked(number: Fraction) -> Fraction:
    if bits(number) > MAX_BITS:
        raise OutOfBoundsError("bits")
    return number


def _values(node: Node) -> list[Fraction] | Undefined | None:
    found: list[Fraction] = []
    unknown = False
    for item in node.items:
        part = value(item)
        if isinstance(part, Undefined):
            return UNDEFINED
        if part is None:
            unknown = True
        else:
            found.append(part)
    return None if unknown else found


def _number(node: Node) -> Value:
    return literal(node.text)


def _repeating(node: Node) -> Value:
    plain, _, cycle = node.text.rstrip(")").partition("(")
    whole, _, decimals = plain.partition(".")
    head = Fraction(int(whole + decimals), 10 ** len(decimals))
    return head + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(decimals))


def _sum(node: Node) -> Value:
    parts = _values(node)
    if not isinstance(parts, list):
        return parts
    total = Fraction(0)
    for part in parts:
        total = checked(total + part)
    return total


def _product(node: Node) -> Value:
    parts = _values(node)
    if not isinstance(parts, list):
        return parts
    total = Fraction(1)
    for part in parts:
        total = checked(total * part)
    return total


def _quotient(node: Node) -> Value:
    above, below = value(node.items[0]), value(node.items[1])
    if isinstance(above, Undefined) or isinstance(below, Undefined) or below == 0:
        return UNDEFINED
    if above is None or below is None:
        return None
    return checked(above / below)


def _negative(node: Node) -> Value:
    part = value(node.items[0])
    return -part if isinstance(part, Fraction) else part


def _power(node: Node) -> Value:
    base, exponent = value(node.items[0]), value(node.items[1])
    if isinstance(base, Undefined) or isinstance(exponent, Undefined):
        return UNDEFINED
    if exponent is not None and abs(exponent) > MAX_EXPONENT:
        if base in (0, 1, -1) and exponent.denominator == 1:
            return UNDEFINED if base == 0 and exponent < 0 else base if base != -1 or exponent % 2 else Fraction(1)
        raise OutOfBoundsError("exponent")
    if base is None or exponent is None:
        return None
    return power(base, exponent)


def power(base: Fraction, exponent: Fraction) -> Value:
    """base^exponent where that is a real rational; |exponent| <= MAX_EXPONENT."""
    if base == 0:
        return UNDEFINED if exponent <= 0 else Fraction(0)
    if exponent.denominator != 1:
        root = nth_root(base, exponent.denominator)
        if root is None:
            estimate(base, exponent)
            return None
        base, exponent = root, Fraction(exponent.numerator)
    estimate(base, exponent)
    return base ** int(exponent)


def estimate(base: Fraction, exponent: Fraction) -> None:
    if base not in (1, -1) and bits(base) * abs(exponent) > MAX_BITS:
        raise OutOfBoundsError("power")


def nth_root(number: Fraction, index: int) -> Fraction | None:
    """The real root if it is rational; of a negative number for odd indices only."""
    if index > MAX_EXPONENT:
        raise OutOfBoundsError("index")
    if number < 0:
        if index % 2 == 0:
            return None
        root = nth_root(-number, index)
        return None if root is None else -root
    above, below = _integer_root(number.numerator, index), _integer_root(number.denominator, index)
    return None if above is None or below is None else Fraction(above, below)


def _integer_root(number: int, index: int) -> int | None:
    if number < 2:
        return number
    if index == 2:
        root = math.isqrt(number)
        return root if root * root == number else None
    if index >= number.bit_length():
        return None
    root = 1 << -(-number.bit_length() // index)
    while True:
        following = ((index - 1) * root + number // root ** (index - 1)) // index
        if following >= root:
            break
        root = following
    return root if root**index == number else None


def _root(node: Node) -> Value:
    radicand, index = value(node.items[0]), value(node.items[1])
    if isinstance(radicand, Undefined) or isinstance(index, Undefined):
        return UNDEFINED
    if index is not None and (index.denominator != 1 or index < 2 or index > MAX_EXPONENT):
        raise OutOfBoundsError("index")
    if radicand is None or index is None:
        return None
    return nth_root(radicand, int(index))


def _mixed(node: Node) -> Value:
    parts = _values(node)
    if not isinstance(parts, list):
        return parts
    whole, above, below = parts
    return UNDEFINED if below == 0 else whole + above / below


def _percent(node: Node) -> Value:
    part = value(node.items[0])
    return part / 100 if isinstance(part, Fraction) else part


def factorial(number: Fraction) -> Value:
    if number.denominator != 1 or number < 0:
        return UNDEFINED
    if number > MAX_EXPONENT or (number > 20 and math.lgamma(float(number) + 1) / math.log(2) > MAX_BITS):
        raise OutOfBoundsError("factorial")
    return Fraction(math.factorial(int(number)))


def binomial(above: Fraction, below: Fraction) -> Value:
    if above.denominator != 1 or below.denominator != 1 or above < 0:
        return None
    if below < 0 or below > above:
        return Fraction(0)
    if above > 10**9:
        raise OutOfBoundsError("binomial")
    small = min(int(below), int(above - below))
    if small * math.log2(float(above) + 2) > MAX_BITS:
        raise OutOfBoundsError("binomial")
    return Fraction(math.comb(int(above), small))


def _call(node: Node) -> Value:
    parts = _values(node)
    if not isinstance(parts, list):
        return parts
    name = node.text
    if name == "factorial":
        return factorial(parts[0])
    if name == "binom":
        return binomial(*parts)
    if name == "abs":
        return abs(parts[0])
    if name == "floor":
        return Fraction(math.floor(parts[0]))
    if name == "ceil":
        return Fraction(math.ceil(parts[0]))
    if name in ("max", "min"):
        return (max if name == "max" else min)(parts)
    if name in ("gcd", "lcm") and all(part.denominator == 1 for part in parts):
        whole = [int(part) for part in parts]
        return checked(Fraction(math.gcd(*whole) if name == "gcd" else math.lcm(*whole)))
    if name == "mod" and len(parts) == 2:
        return UNDEFINED if parts[1] == 0 else parts[0] % parts[1]
    return _transcendental(name, parts)


def _transcendental(name: str, parts: list[Fraction]) -> Value:
    """The few values that are rational at sight."""
    if (name in ("ln", "log", "lg") and parts[0] <= 0) or (name == "logb" and (parts[0] <= 0 or parts[1] <= 0 or parts[1] == 1)):
        return UNDEFINED if parts[0] == 0 or name == "logb" else None
    if name in ("cot", "csc") and parts[0] == 0:
        return UNDEFINED
    return None


def _series(node: Node) -> Value:
    if node.text == "integral":
        return None
    start, end = value(node.items[1]), value(node.items[2])
    if isinstance(start, Undefined) or isinstance(end, Undefined):
        return UNDEFINED
    if start is None or end is None:
        return None
    if start.denominator != 1 or end.denominator != 1 or abs(start) > 10**6 or end - start > MAX_TERMS:
        raise OutOfBoundsError("terms")
    name = node.items[0].text
    total = Fraction(0) if node.text == "sum" else Fraction(1)
    for index in range(int(start), int(end) + 1):
        term = value(substitute(node.items[3], name, _integer(index)))
        if not isinstance(term, Fraction):
            return term
        total = checked(total + term if node.text == "sum" else total * term)
    return total


def _integer(index: int) -> Node:
    plain = Node(Kind.NUMBER, str(abs(index)))
    return plain if index >= 0 else Node(Kind.NEGATIVE, "", (plain,))


def substitute(node: Node, name: str, replacement: Node) -> Node:
    """The tree with a name replaced."""
    if node.kind is Kind.NAME and node.text == name:
        return replacement
    if not node.items:
        return node
    return Node(node.kind, node.text, tuple(substitute(item, name, replacement) for item in node.items))


_RULES = {
    Kind.NUMBER: _number,
    Kind.REPEATING: _repeating,
    Kind.SUM: _sum,
    Kind.PRODUCT: _product,
    Kind.QUOTIENT: _quotient,
    Kind.NEGATIVE: _negative,
    Kind.POWER: _power,
    Kind.ROOT: _root,
    Kind.MIXED: _mixed,
    Kind.PERCENT: _percent,
    Kind.CALL: _call,
    Kind.SERIES: _series,
}
