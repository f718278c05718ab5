"""Proofs that two expressions are equal: rewritings by sympy whose result is exactly 0.

Owns the order of the rewritings, cheap ones first. A float is used only to bound the size of a difference that algebra has already put on a
lattice (a multiple of π, an exponential). Runs in the sandboxed child only.
"""

import itertools
from collections.abc import Callable

import sympy

from verifier import numeric
from verifier.nodes import Kind, Node
from verifier.readings import free_names
from verifier.symbols import NotAlgebraicError, build

MAX_OPERATIONS = 400
MAX_SIGNED_NAMES = 3
Step = Callable[[sympy.Expr], sympy.Expr]
_INVERSE = (sympy.asin, sympy.acos, sympy.atan, sympy.acot, sympy.asec, sympy.acsc)
_CIRCULAR = (sympy.sin, sympy.cos, sympy.tan, sympy.cot, sympy.sec, sympy.csc)


def proven(answer: Node, gold: Node, *, positive: frozenset[str]) -> bool:
    """True if the difference of both is 0 for all real names, those in `positive` being positive."""
    difference = build(answer, positive) - build(gold, positive)
    if _vanishes(difference, (*_CHEAP, *_DEAR)):
        return True
    names = sorted((free_names(answer) | free_names(gold)) - positive)
    if not names or len(names) > MAX_SIGNED_NAMES or not difference.has(sympy.Abs, sympy.log, sympy.Pow, sympy.sign, sympy.Max, sympy.Min):
        return False
    return _vanishes_by_signs(answer, gold, names, positive)


def _vanishes_by_signs(answer: Node, gold: Node, names: list[str], positive: frozenset[str]) -> bool:
    """One proof for each choice of signs under which both sides have a value."""
    proofs = 0
    for signs in itertools.product((1, -1), repeat=len(names)):
        negative = {name for name, sign in zip(names, signs, strict=True) if sign < 0}
        left, right = _flipped(answer, negative), _flipped(gold, negative)
        met = [numeric.differ(left, right, point, is_complex=False) for point in numeric.positive_points(sorted(names + list(positive)))]
        if True in met:
            return False
        if False not in met:
            continue
        everything = positive | frozenset(names)
        if not _vanishes(build(left, everything) - build(right, everything), (*_CHEAP, *_DEAR)):
            return False
        proofs += 1
    return proofs > 0


def _flipped(node: Node, names: set[str]) -> Node:
    if node.kind is Kind.NAME and node.text in names:
        return Node(Kind.NEGATIVE, "", (node,))
    if node.kind is Kind.WORD:
        return Node(Kind.PRODUCT, "", tuple(_flipped(Node(Kind.NAME, letter), names) for letter in node.text))
    return Node(node.kind, node.text, tuple(_flipped(item, names) for item in node.items)) if node.items else node


def _vanishes(difference: sympy.Expr, steps: tuple[Step, ...]) -> bool:
    if difference == 0:
        return True
    if difference.has(sympy.nan, sympy.zoo, sympy.oo) or difference.count_ops() > MAX_OPERATIONS:
        return False
    for step in steps:
        try:
            if step(difference) == 0:
                return True
        except (NotAlgebraicError, NotImplementedError, ValueError, TypeError, ZeroDivisionError, AttributeError, sympy.PolynomialError):
            continue
    return False


def _rational(difference: sympy.Expr) -> sympy.Expr:
    numerator, _ = sympy.fraction(sympy.together(difference))
    return sympy.expand(numerator)


def _logarithms(difference: sympy.Expr) -> sympy.Expr:
    if not difference.has(sympy.log):
        return difference
    return sympy.expand(_rational(_prime_logarithms(sympy.expand_log(difference))))


def _prime_logarithms(difference: sympy.Expr) -> sympy.Expr:
    """log of a positive rational as a sum over its primes: exact, and independent of spelling."""

    def split(number: sympy.Expr) -> sympy.Expr:
        above, below = number.as_numer_denom()
        terms = [power * sympy.log(prime) for prime, power in sympy.factorint(above, limit=10**5).items()]
        terms += [-power * sympy.log(prime) for prime, power in sympy.factorint(below, limit=10**5).items()]
        return sympy.Add(*terms)

    arguments = {log: log.args[0] for log in difference.atoms(sympy.log) if log.args[0].is_Rational and log.args[0].is_positive}
    short = {log: number for log, number in arguments.items() if number.p.bit_length() + number.q.bit_length() < 128}
    return difference.xreplace({log: split(number) for log, number in short.items()})


def _angles(difference: sympy.Expr) -> sympy.Expr:
    return _rational(sympy.expand_trig(difference)) if difference.has(*_CIRCULAR) else difference


def _exponentials(difference: sympy.Expr) -> sympy.Expr:
    """Trigonometric polynomials through exp: exact."""
    if not difference.has(*_CIRCULAR, sympy.sinh, sympy.cosh, sympy.tanh, sympy.exp):
        return difference
    numerator, _ = sympy.fraction(sympy.together(difference.rewrite(sympy.exp)))
    return sympy.expand(sympy.powsimp(sympy.expand(numerator)))


def _pythagoras(difference: sympy.Expr) -> sympy.Expr:
    """Squares of the sine replaced by those of the cosine, after all other functions are written in both."""
    if not difference.has(*_CIRCULAR):
        return difference
    rewritten = difference.rewrite(sympy.cos, sympy.sin) if difference.has(sympy.sec, sympy.csc) else difference
    rewritten = rewritten.replace(sympy.tan, lambda angle: sympy.sin(angle) / sympy.cos(angle)).replace(
        sympy.cot, lambda angle: sympy.cos(angle) / sympy.sin(angle)
    )
    rewritten = rewritten.replace(sympy.sec, lambda angle: 1 / sympy.cos(angle)).replace(sympy.csc, lambda angle: 1 / sympy.sin(angle))
    numerator, _ = sympy.fraction(sympy.together(sympy.expand_trig(rewritten)))
    expanded = sympy.expand(numerator)
    for sine in sorted(expanded.atoms(sympy.sin), key=str):
        polynomial = sympy.Poly(expanded, sine)
        square = 1 - sympy.cos(sine.args[0]) ** 2
        terms = [coefficient * square ** (power // 2) * sine ** (power % 2) for (power,), coefficient in polynomial.terms()]
        expanded = sympy.expand(sympy.Add(*terms))
    return expanded


def _arcs(difference: sympy.Expr) -> sympy.Expr:
    """A constant of inverse functions: its sine is 0 by algebra and it is smaller than π, so it is 0."""
    if difference.free_symbols or not difference.has(*_INVERSE) or not _is_small(difference):
        return difference
    sine = sympy.expand_trig(sympy.sin(sympy.expand(difference)))
    return sympy.Integer(0) if _vanishes(sine, _CHEAP) or _vanishes(sine, (_denested, _algebraic)) else difference


def _powers_of_e(difference: sympy.Expr) -> sympy.Expr:
    """A real constant of logarithms: its exponential is 1 by algebra, so it is 0."""
    if difference.free_symbols or not difference.has(sympy.log) or not difference.is_real:
        return difference
    power = sympy.exp(sympy.expand(sympy.expand_log(difference)))
    return sympy.Integer(0) if _vanishes(sympy.powsimp(power) - 1, (sympy.expand, _rational, _denested, _algebraic)) else difference


def _is_small(difference: sympy.Expr) -> bool:
    return bool(abs(difference.evalf(30)) < 1)


def _denested(difference: sympy.Expr) -> sympy.Expr:
    return sympy.expand(sympy.radsimp(sympy.sqrtdenest(difference)))


def _algebraic(difference: sympy.Expr) -> sympy.Expr:
    """An algebraic constant is 0 if its minimal polynomial is x."""
    if difference.free_symbols or not difference.is_algebraic or len(difference.atoms(sympy.Pow)) > 6:
        return difference
    variable = sympy.Dummy("x")
    return sympy.Integer(0) if sympy.minimal_polynomial(difference, variable) == variable else difference


def _simplified_functions(difference: sympy.Expr) -> sympy.Expr:
    return sympy.simplify(sympy.expand_func(difference))


def _gammas(difference: sympy.Expr) -> sympy.Expr:
    return sympy.gammasimp(difference) if difference.has(sympy.factorial, sympy.binomial, sympy.gamma) else difference


_CHEAP: tuple[Step, ...] = (
    sympy.expand,
    _rational,
    _logarithms,
    _angles,
    _pythagoras,
    _exponentials,
    sympy.sqrtdenest,
    _denested,
    _arcs,
    _powers_of_e,
)
_DEAR: tuple[Step, ...] = (_gammas, sympy.powsimp, sympy.trigsimp, _algebraic, sympy.simplify, _simplified_functions)
