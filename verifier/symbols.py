"""From our tree to sympy, by constructors: no text of a model ever becomes Python.

Owns the table of names and functions. Runs in the sandboxed child only. Symbols are real; positive where the caller says so.
"""

from fractions import Fraction

import sympy

from verifier import exact
from verifier.nodes import Kind, Node

MAX_INTEGRAND = 8


class NotAlgebraicError(Exception):
    """The tree has parts that this module does not build."""


def build(node: Node, positive: frozenset[str] = frozenset()) -> sympy.Expr:
    """The sympy expression of a scalar tree. Raises NotAlgebraicError for anything else."""
    return _Builder(positive).build(node)


class _Builder:
    def __init__(self, positive: frozenset[str]) -> None:
        self.positive = positive

    def build(self, node: Node) -> sympy.Expr:
        if node.kind in (Kind.NUMBER, Kind.REPEATING, Kind.MIXED) or (node.kind is Kind.CALL and node.text in ("gcd", "lcm", "mod")):
            return self.rational(node)
        if node.kind is Kind.NAME:
            return self.name(node.text)
        if node.kind is Kind.WORD:
            return sympy.Mul(*[self.name(letter) for letter in node.text])
        if node.kind is Kind.SERIES:
            return self.integral(node) if node.text == "integral" else self.series(node)
        if node.kind is Kind.CALL and node.text == "derivative":
            return sympy.diff(self.build(node.items[0]), self.build(node.items[1]))
        parts = [self.build(item) for item in node.items]
        match node.kind:
            case Kind.SUM:
                return sympy.Add(*parts)
            case Kind.PRODUCT:
                return sympy.Mul(*parts)
            case Kind.QUOTIENT:
                if parts[1].is_zero:
                    raise NotAlgebraicError("zero below")
                return parts[0] / parts[1]
            case Kind.NEGATIVE:
                return -parts[0]
            case Kind.POWER:
                return self.power(parts[0], parts[1])
            case Kind.ROOT:
                return self.root(parts[0], parts[1])
            case Kind.PERCENT:
                return parts[0] / 100
            case Kind.DEGREE:
                return parts[0] * sympy.pi / 180
            case Kind.CALL:
                return self.call(node.text, parts)
            case Kind.APPLY:
                return sympy.Function(f"apply {node.text}", real=True)(*parts)
        raise NotAlgebraicError(node.kind)

    def rational(self, node: Node) -> sympy.Expr:
        value = exact.value(node)
        if not isinstance(value, Fraction):
            raise NotAlgebraicError("no value")
        return sympy.Rational(value.numerator, value.denominator)

    def name(self, name: str) -> sympy.Expr:
        constant = {"\\pi": sympy.pi, "e": sympy.E, "i": sympy.I}.get(name)
        if constant is not None:
            return constant
        return sympy.Symbol(name, positive=True) if name in self.positive else sympy.Symbol(name, real=True)

    def power(self, base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        if base.is_zero and not exponent.is_positive:
            raise NotAlgebraicError("power of zero")
        if base.is_negative and exponent.is_Rational and exponent.q > 1 and exponent.q % 2 == 1:
            size = sympy.Pow(-base, exponent)
            return -size if exponent.p % 2 else size
        return sympy.Pow(base, exponent)

    def root(self, radicand: sympy.Expr, index: sympy.Expr) -> sympy.Expr:
        if not index.is_Integer or index < 2:
            raise NotAlgebraicError("index")
        if radicand.is_negative and index % 2 == 1:
            return -sympy.root(-radicand, index)
        return sympy.root(radicand, index)

    def call(self, name: str, parts: list[sympy.Expr]) -> sympy.Expr:
        first = parts[0]
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](first)
        match name:
            case "lg":
                return sympy.log(first) / sympy.log(10)
            case "logb":
                return sympy.log(first) / sympy.log(parts[1])
            case "binom":
                return sympy.binomial(*parts)
            case "max":
                return sympy.Max(*parts)
            case "min":
                return sympy.Min(*parts)
            case "cis":
                return sympy.cos(first) + sympy.I * sympy.sin(first)
            case "coth":
                return sympy.coth(first)
        raise NotAlgebraicError(name)

    def integral(self, node: Node) -> sympy.Expr:
        """A definite integral of a short function of one variable."""
        variable = sympy.Symbol(node.items[0].text, real=True)
        body, start, end = (self.build(item) for item in (node.items[3], node.items[1], node.items[2]))
        if not body.is_polynomial(variable) and (body.count_ops() > MAX_INTEGRAND or body.free_symbols != {variable}):
            raise NotAlgebraicError("integrand")
        result = sympy.integrate(body, (variable, start, end))
        if result.has(sympy.Integral):
            raise NotAlgebraicError("integral")
        return result

    def series(self, node: Node) -> sympy.Expr:
        start, end = exact.value(node.items[1]), exact.value(node.items[2])
        if not isinstance(start, Fraction) or not isinstance(end, Fraction):
            body = self.build(node.items[3])
            limits = (self.build(node.items[0]), self.build(node.items[1]), self.build(node.items[2]))
            return sympy.Function(f"series {node.text}")(body, *limits)
        numbers = range(int(start), int(end) + 1)
        if len(numbers) > exact.MAX_TERMS:
            raise NotAlgebraicError("terms")
        terms = [
            self.build(exact.substitute(node.items[3], node.items[0].text, Node(Kind.NUMBER, str(number)) if number >= 0 else _negative(number)))
            for number in numbers
        ]
        return sympy.Add(*terms) if node.text == "sum" else sympy.Mul(*terms)


def _negative(number: int) -> Node:
    return Node(Kind.NEGATIVE, "", (Node(Kind.NUMBER, str(-number)),))


_FUNCTIONS = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc, "sinh": sympy.sinh,
    "cosh": sympy.cosh, "tanh": sympy.tanh,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "arccot": sympy.acot, "arcsec": sympy.asec, "arccsc": sympy.acsc,
    "arsinh": sympy.asinh,
    "arcosh": sympy.acosh, "artanh": sympy.atanh, "ln": sympy.log, "log": sympy.log, "exp": sympy.exp, "abs": sympy.Abs, "floor": sympy.floor,
    "ceil": sympy.ceiling,
    "Re": sympy.re, "Im": sympy.im, "sign": sympy.sign, "factorial": sympy.factorial, "arg": sympy.arg,
}  # fmt: skip
