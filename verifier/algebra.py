"""The verdicts that need algebra: refuted by numbers, proven by sympy, or undecided.

Owns `decide`, which runs in the sandboxed child only, on two trees that parsed within bounds. A CPU budget is the sandbox's: its exception passes
through here. Numbers never prove; a proof never rests on a float.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction

import sympy
from mpmath import mp

from verifier import compare, exact, numeric
from verifier.compare import Decision
from verifier.nodes import Kind, Node
from verifier.readings import free_names
from verifier.shapes import Judge
from verifier.symbols import NotAlgebraicError, build

MAX_OPERATIONS = 400
_FLIPPED = {">": "<", ">=": "<="}


def decide(answer: Node, gold: Node) -> Decision:
    """The verdict on two trees. Deterministic; whatever the budget interrupts is for the caller to call undecided."""
    try:
        result = _JUDGE.equal(answer, gold)
    except (NotAlgebraicError, exact.OutOfBoundsError, RecursionError):
        result = None
    if result is None:
        return Decision("undecided", "worker")
    return Decision("correct" if result else "wrong", "worker")


def warm_up() -> None:
    """Touch every module that sympy loads lazily, before the child is locked."""
    from verifier.answers import parse

    for answer, gold in _WARM_PAIRS:
        left, right = parse(answer), parse(gold)
        assert left is not None and right is not None
        decide(left, right)


_WARM_PAIRS = (
    (r"\sqrt{6+4\sqrt2}", r"2+\sqrt2"),
    (r"\frac{1-\cos 2x}{2}", r"\sin^2 x"),
    (r"\tan\frac{x}{2}", r"\frac{\sin x}{1+\cos x}"),
    (r"\ln 4-\ln 2", r"\ln 2"),
    (r"\log_4 9", r"\log_2 3"),
    (r"x^2+2x+1", r"(x+1)^2"),
    (r"\frac{x^2-1}{x-1}", r"x+1"),
    (r"y-2x=3", r"y=2x+3"),
    (r"x-1<0", r"x<1"),
    (r"\cos\frac{2\pi}{7}+\cos\frac{4\pi}{7}+\cos\frac{6\pi}{7}", r"-\frac12"),
    (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", "1"),
    (r"e^{i\pi}", "-1"),
    (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
    (r"[\sqrt2,\sqrt3]", r"[\sqrt2,\sqrt3)"),
    (r"|x|^2", "x^2"),
    (r"\arctan 2+\arctan 3", r"\frac{3\pi}{4}"),
    (r"\sum_{k=1}^{3}k x", "6x"),
)


# --- scalars


def _leaf(answer: Node, gold: Node) -> bool | None:
    settled = compare.scalars(answer, gold)
    if settled is not None:
        return settled
    answer, gold = _applied_alike(answer, gold)
    return equal_scalars(answer, gold)


def equal_scalars(answer: Node, gold: Node) -> bool | None:
    """Refute at points, then prove."""
    names = sorted(free_names(answer) | free_names(gold))
    is_complex = not names or _mentions_i(answer) or _mentions_i(gold)
    met = 0
    signs: set[str] = set()
    for point in numeric.points(names):
        different = numeric.differ(answer, gold, point, is_complex=is_complex)
        if different:
            return False
        if different is False:
            met += 1
            signs.update(name for name, value in point.items() if value < 0)
    if not met:
        return False if not names else None
    positive = frozenset(names) - signs
    return True if any(proof(answer, gold, positive) for proof in (_by_construction, _by_simplification)) else None


def _mentions_i(node: Node) -> bool:
    return (node.kind is Kind.NAME and node.text == "i") or any(_mentions_i(item) for item in node.items)


def _by_construction(answer: Node, gold: Node, positive: frozenset[str]) -> bool:
    difference = build(answer, positive) - build(gold, positive)
    return _is_zero(difference)


def _by_simplification(answer: Node, gold: Node, positive: frozenset[str]) -> bool:
    difference = build(answer, positive) - build(gold, positive)
    if difference.has(sympy.nan, sympy.zoo, sympy.oo) or difference.count_ops() > MAX_OPERATIONS:
        return False
    return any(_is_zero(form) for form in _forms(difference))


def _is_zero(form: sympy.Expr) -> bool:
    return bool(form == 0)


def _forms(difference: sympy.Expr) -> Iterator[sympy.Expr]:
    """Ever dearer rewritings of a difference; one that is 0 is a proof."""
    for step in _STEPS:
        if step is _rational and not difference.is_rational_function() and difference.has(sympy.factorial, sympy.binomial):
            continue
        yield step(difference)


def _rational(difference: sympy.Expr) -> sympy.Expr:
    numerator, _ = sympy.fraction(sympy.together(difference))
    return sympy.expand(numerator)


def _logarithms(difference: sympy.Expr) -> sympy.Expr:
    return sympy.expand(sympy.expand_log(_factored_logs(difference), force=False))


def _factored_logs(difference: sympy.Expr) -> sympy.Expr:
    """log of a positive rational as a sum over its primes: exact, and independent of spelling."""

    def split(number: sympy.Expr) -> sympy.Expr:
        above, below = number.as_numer_denom()
        terms = [power * sympy.log(prime) for prime, power in sympy.factorint(above, limit=10**5).items()]
        terms += [-power * sympy.log(prime) for prime, power in sympy.factorint(below, limit=10**5).items()]
        return sympy.Add(*terms)

    chosen = {log: split(log.args[0]) for log in difference.atoms(sympy.log) if log.args[0].is_Rational and log.args[0].is_positive and log.args[0].q.bit_length() + log.args[0].p.bit_length() < 128}
    return difference.xreplace(chosen)


def _exponentials(difference: sympy.Expr) -> sympy.Expr:
    """Trigonometric polynomials through exp: exact."""
    rewritten = difference.rewrite(sympy.exp)
    numerator, _ = sympy.fraction(sympy.together(rewritten))
    return sympy.expand(sympy.powsimp(sympy.expand(numerator)))


def _algebraic(difference: sympy.Expr) -> sympy.Expr:
    """An algebraic constant is 0 if its minimal polynomial is x."""
    if difference.free_symbols or not difference.is_algebraic or len(difference.atoms(sympy.Pow)) > 6:
        return difference
    variable = sympy.Dummy("x")
    return sympy.Integer(0) if sympy.minimal_polynomial(difference, variable) == variable else sympy.Integer(1)


_STEPS: tuple[Callable[[sympy.Expr], sympy.Expr], ...] = (
    sympy.expand,
    _rational,
    _logarithms,
    lambda difference: _rational(sympy.expand_trig(difference)),
    _exponentials,
    sympy.sqrtdenest,
    lambda difference: sympy.expand(sympy.radsimp(sympy.sqrtdenest(difference))),
    sympy.trigsimp,
    sympy.simplify,
    lambda difference: sympy.simplify(sympy.expand_func(difference)),
    _algebraic,
)


def _applied_alike(answer: Node, gold: Node) -> tuple[Node, Node]:
    """f(x) is a function if both sides apply f; otherwise f times x."""
    mine, theirs = _applied(answer), _applied(gold)
    if mine == theirs:
        return answer, gold
    if not mine or not theirs:
        return _as_product(answer), _as_product(gold)
    return answer, gold


def _applied(node: Node) -> set[str]:
    return set().union({node.text} if node.kind is Kind.APPLY else set(), *(_applied(item) for item in node.items))


def _as_product(node: Node) -> Node:
    items = tuple(_as_product(item) for item in node.items)
    if node.kind is Kind.APPLY and len(items) == 1 and "'" not in node.text and "^" not in node.text:
        return Node(Kind.PRODUCT, "", (Node(Kind.NAME, node.text), *items))
    return Node(node.kind, node.text, items)


# --- relations and order


def _relation(answer: Node, gold: Node) -> bool | None:
    """Both moved to one side: the quotient of the two is a constant, and positive where a direction counts."""
    mine, theirs = _directed(answer), _directed(gold)
    if [operator for operator, _ in mine] != [operator for operator, _ in theirs]:
        return False
    results = [_proportional(one, two, operator) for (operator, one), (_, two) in zip(mine, theirs, strict=True)]
    return False if False in results else None if None in results else True


def _directed(node: Node) -> list[tuple[str, Node]]:
    """The links of a chain as (operator, left - right), all of them `<`, `<=`, `=`, `!=` or `in`."""
    operators, sides = node.text.split(), list(node.items)
    if all(operator in _FLIPPED for operator in operators):
        operators, sides = [_FLIPPED[operator] for operator in reversed(operators)], sides[::-1]
    links = []
    for operator, left, right in zip(operators, sides, sides[1:], strict=False):
        if operator in ("in", "notin") or right.kind in (Kind.TUPLE, Kind.SET, Kind.LIST, Kind.INTERVAL, Kind.MATRIX):
            raise NotAlgebraicError("relation of sets")
        links.append((operator, Node(Kind.SUM, "", (left, Node(Kind.NEGATIVE, "", (right,))))))
    return links


def _proportional(answer: Node, gold: Node, operator: str) -> bool | None:
    names = sorted(free_names(answer) | free_names(gold))
    for point in numeric.points(names):
        try:
            with mp.workdps(60):
                one, two = numeric.evaluate(answer, point, False), numeric.evaluate(gold, point, False)
        except (numeric.UndefinedValueError, ValueError, ZeroDivisionError, OverflowError, TypeError):
            continue
        if abs(one) < 1e-30 or abs(two) < 1e-30:
            continue
        if operator in ("<", "<=") and one / two < 0:
            return False
        here = {name: _fraction(value) for name, value in point.items()}
        return equal_scalars(Node(Kind.PRODUCT, "", (answer, _at(gold, here))), Node(Kind.PRODUCT, "", (gold, _at(answer, here))))
    return None


def _fraction(value: Fraction) -> Node:
    size = Node(Kind.QUOTIENT, "", (Node(Kind.NUMBER, str(abs(value.numerator))), Node(Kind.NUMBER, str(value.denominator))))
    return size if value >= 0 else Node(Kind.NEGATIVE, "", (size,))


def _at(node: Node, point: dict[str, Node]) -> Node:
    if node.kind is Kind.WORD:
        return Node(Kind.PRODUCT, "", tuple(point.get(letter, Node(Kind.NAME, letter)) for letter in node.text))
    if node.kind is Kind.NAME:
        return point.get(node.text, node)
    return Node(node.kind, node.text, tuple(_at(item, point) for item in node.items))


def _order(left: Node, right: Node) -> int | None:
    settled = compare.order_rationals(left, right)
    if settled is not None:
        return settled
    if free_names(left) or free_names(right):
        return None
    same = equal_scalars(left, right)
    if same is None:
        return None
    if same:
        return 0
    with mp.workdps(450):
        try:
            gap = numeric.evaluate(left, {}, False) - numeric.evaluate(right, {}, False)
        except (numeric.UndefinedValueError, ValueError, ZeroDivisionError, TypeError):
            return None
        return 1 if gap > 0 else -1


_JUDGE = Judge(_leaf, _relation, _order)
