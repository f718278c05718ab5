"""The verdicts that need algebra: refuted by numbers, proven by sympy, or undecided.

Owns `decide`, which runs in the sandboxed child only, on two trees that parsed within bounds. A CPU budget is the sandbox's: its exception passes
through here. Numbers never prove; a proof never rests on a float.
"""

from fractions import Fraction

from mpmath import mp

from verifier import compare, exact, logarithms, numeric, proofs
from verifier.compare import Decision
from verifier.nodes import Kind, Node, encode
from verifier.readings import free_names
from verifier.shapes import Judge, all_of, any_of
from verifier.symbols import NotAlgebraicError

_UNPROVABLE = (
    NotAlgebraicError,
    exact.OutOfBoundsError,
    RecursionError,
    ArithmeticError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
    AttributeError,
)
"""What sympy and mpmath raise on trees that they do not know how to treat: neither refuted nor proven."""
_FLIPPED = {">": "<", ">=": "<="}


def decide(answer: Node, gold: Node) -> Decision:
    """The verdict on two trees. Deterministic; whatever the budget interrupts is for the caller to call undecided."""
    try:
        result = _JUDGE.equal(answer, gold)
    except _UNPROVABLE:
        result = None
    if result is None:
        return Decision("undecided", "worker")
    return Decision("correct" if result else "wrong", "worker")


def warm_up() -> None:
    """Touch every module that sympy loads lazily, before the child is locked."""
    from verifier.answers import parse

    for answer, gold in _WARM_PAIRS:
        left, right = parse(answer), parse(gold)
        assert left is not None, answer
        assert right is not None, gold
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
    (r"\int_0^1 x^2\,dx", r"\frac13"),
    (r"\int_0^\pi \sin x\,dx", "2"),
    (r"\frac{d}{dx}x^3", "3x^2"),
    (r"\ln(x^2)", r"2\ln|x|"),
    (r"\frac{(n+1)!}{n!}", "n+1"),
    (r"\ln(2+\sqrt3)", r"-\ln(2-\sqrt3)"),
    (r"\cos 36^\circ", r"\frac{1+\sqrt5}{4}"),
    (r"\sqrt{x^2}", "|x|"),
    (r"\sinh x", r"\frac{e^x-e^{-x}}{2}"),
)


# --- scalars


def _leaf(answer: Node, gold: Node) -> bool | None:
    settled = compare.scalars(answer, gold)
    if settled is not None:
        return settled
    answer, gold = _applied_alike(answer, gold)
    return any_of(equal_scalars(mine, theirs) for mine, theirs in logarithms.readings(answer, gold))


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
        return None if names else False
    return True if proofs.proven(answer, gold, positive=frozenset(names) - signs) else None


def _mentions_i(node: Node) -> bool:
    return (node.kind is Kind.NAME and node.text == "i") or any(_mentions_i(item) for item in node.items)


def _applied_alike(answer: Node, gold: Node) -> tuple[Node, Node]:
    """f(x) is a function where the gold applies f, or to one letter or number; h(a+b) may be a product where only one side writes it so."""
    mine, theirs = _applied(answer), _applied(gold)
    if (mine and not theirs) or (theirs and not mine and not _is_atomic(gold)):
        return _as_product(answer), _as_product(gold)
    return answer, gold


def _is_atomic(node: Node) -> bool:
    """True if some name is applied to one letter or number: no product is written like this."""
    applied = node.kind is Kind.APPLY and (len(node.items) > 1 or not node.items[0].items)
    return applied or any(_is_atomic(item) for item in node.items)


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
    if not free_names(answer) and not free_names(gold):
        return answer.text == gold.text and all_of(equal_scalars(one, two) for one, two in zip(answer.items, gold.items, strict=True))
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
    answer, gold = _opaque(answer), _opaque(gold)
    names = sorted(free_names(answer) | free_names(gold))
    if not names:
        return equal_scalars(answer, gold)
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


def _opaque(node: Node) -> Node:
    """Unknown values as unknowns: f(2) in a relation is a name like any other."""
    items = tuple(_opaque(item) for item in node.items)
    if node.kind is Kind.APPLY:
        return Node(Kind.NAME, f"{node.text} {encode(Node(node.kind, node.text, items)).hex()}")
    return Node(node.kind, node.text, items)


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
