"""Equality of two answers by their shape, down to scalars, which a leaf decides.

Owns the policies of lists, sets, tuples, intervals, units, percent and names. The parent brings a leaf that knows rationals, the child one that
knows sympy; both walk the same rules. True: proven equal. False: different. None: this leaf cannot say.
"""

from collections.abc import Callable, Iterable, Sequence

from verifier import lines
from verifier.matrices import reduced
from verifier.nodes import Kind, Node
from verifier.readings import Said, are_numbered, free_names, has_sign, is_near, label, listed, said, spread
from verifier.relations import solution_set

Leaf = Callable[[Node, Node], bool | None]
MAX_PAIRS = 4096
_COLLECTIONS = frozenset((Kind.INTERVAL, Kind.UNION, Kind.INTERSECTION, Kind.DIFFERENCE, Kind.NUMBERS, Kind.BUILDER))
_CONSTANT_LETTERS = ("C", "c", "K", "k")


class Judge:
    """Compares trees with one leaf; `relation` compares two equations or inequalities, `order` two real end points."""

    def __init__(self, leaf: Leaf, relation: Leaf, order: lines.Order) -> None:
        self.leaf, self.relation, self.order = leaf, relation, order

    def equal(self, answer: Node, gold: Node) -> bool | None:
        """The verdict of a whole answer against a whole gold."""
        answers = answer.items if answer.kind is Kind.EITHER else (answer,)
        golds = gold.items if gold.kind is Kind.EITHER else (gold,)
        return any_of(self.reading(each, other) for each in answers for other in golds)

    def reading(self, answer: Node, gold: Node) -> bool | None:
        """One reading of each side: chains and names first."""
        if has_text(answer) or has_text(gold):
            return same_text(answer, gold)
        ordered = as_ordered(answer, gold)
        if ordered is not None:
            return self.value(*ordered)
        answer, gold = listed(answer, gold), listed(gold, answer)
        mine, theirs = said(answer), said(gold)
        if mine.name is not None and theirs.name is not None and mine.name != theirs.name and not are_numbered(mine, theirs):
            return self.relations(answer, gold)
        if mine.value is answer and theirs.name is not None and is_equation(answer):
            return self.relations(answer, gold)
        if theirs.value is gold and mine.name is not None and is_equation(gold):
            return self.relations(answer, gold)
        return all_of((self.members_agree(mine), any_of(self.value(each, other) for each in candidates(mine) for other in candidates(theirs))))

    def members_agree(self, chain: Said) -> bool | None:
        """A chain is worth its last member only if the others that are constants equal it."""
        constant = [member for member in chain.members if not free_names(member)] if not free_names(chain.value) else []
        near = [is_near(chain.value, decimal) for decimal in chain.near] if chain.members or chain.name is None or len(chain.near) > 0 else []
        return all_of([self.value(member, chain.value) for member in constant] + list(near))

    def relations(self, answer: Node, gold: Node) -> bool | None:
        if answer.text == gold.text == "===" and len(answer.items) == len(gold.items):
            return all_of(self.value(mine, theirs) for mine, theirs in zip(answer.items, gold.items, strict=True))
        if answer.kind is Kind.RELATION and gold.kind is Kind.RELATION:
            return self.relation(answer, gold)
        return False

    def value(self, answer: Node, gold: Node) -> bool | None:
        """Two values without names."""
        answer, gold = reduced(plain_group(answer)), reduced(plain_group(gold))
        if has_text(answer) or has_text(gold):
            return same_text(answer, gold)
        if answer.kind is not gold.kind and Kind.DEGREE in (answer.kind, gold.kind) and not _is_temperature(answer, gold):
            other = gold if answer.kind is Kind.DEGREE else answer
            if other.kind in (Kind.UNIT, Kind.PERCENT):
                return False
        if Kind.PERCENT in (answer.kind, gold.kind):
            return self.percent(answer, gold)
        if Kind.UNIT in (answer.kind, gold.kind):
            return self.unit(answer, gold)
        if Kind.DEGREE in (answer.kind, gold.kind):
            return self.value(bare(answer, Kind.DEGREE), bare(gold, Kind.DEGREE))
        if Kind.CLOCK in (answer.kind, gold.kind):
            return self.clock(answer, gold)
        if Kind.RATIO in (answer.kind, gold.kind):
            return self.ratio(answer, gold)
        if has_sign(answer) or has_sign(gold):
            return self.signs(answer, gold)
        return self.structured(answer, gold)

    def structured(self, answer: Node, gold: Node) -> bool | None:
        kinds = (answer.kind, gold.kind)
        if Kind.MATRIX in kinds or Kind.DETERMINANT in kinds:
            return self.matrix(answer, gold)
        if _is_line(answer) or _is_line(gold):
            return self.sets(answer, gold)
        if Kind.LIST in kinds or Kind.SET in kinds:
            return self.unordered(answer, gold)
        if Kind.TUPLE in kinds:
            return self.tuple(answer, gold)
        if Kind.RELATION in kinds:
            return self.relations(answer, gold)
        if Kind.CHOICE in kinds:
            return same_choice(answer, gold)
        return self.leaf(*same_constant(answer, gold))

    # --- decorated numbers

    def percent(self, answer: Node, gold: Node) -> bool | None:
        if answer.kind is gold.kind:
            return self.value(answer.items[0], gold.items[0])
        signed, plain = (answer, gold) if answer.kind is Kind.PERCENT else (gold, answer)
        if plain.kind is Kind.UNIT:
            return False
        hundredth = Node(Kind.QUOTIENT, "", (signed.items[0], Node(Kind.NUMBER, "100")))
        return any_of(self.value(each, plain) if signed is answer else self.value(plain, each) for each in (signed.items[0], hundredth))

    def unit(self, answer: Node, gold: Node) -> bool | None:
        if answer.kind is gold.kind and answer.text != gold.text:
            return False
        return self.value(bare(answer, Kind.UNIT), bare(gold, Kind.UNIT))

    def clock(self, answer: Node, gold: Node) -> bool | None:
        if answer.kind is Kind.CLOCK and gold.kind is Kind.CLOCK:
            mine, theirs = answer.text.split(), gold.text.split()
            if mine[0] == theirs[0]:
                return len(mine) == 1 or len(theirs) == 1 or mine[1] == theirs[1]
        mine_ratio, their_ratio = clock_ratio(answer), clock_ratio(gold)
        if mine_ratio is None or their_ratio is None:
            return False
        return self.ratio(mine_ratio, their_ratio)

    def ratio(self, answer: Node, gold: Node) -> bool | None:
        """a:b against c:d or a fraction: proportional."""
        mine, theirs = terms_of_ratio(answer), terms_of_ratio(gold)
        if mine is None or theirs is None or len(mine) != len(theirs):
            return False
        crossed = (self.leaf(_times(mine[0], other), _times(each, theirs[0])) for each, other in zip(mine[1:], theirs[1:], strict=True))
        return all_of(crossed)

    def signs(self, answer: Node, gold: Node) -> bool | None:
        mine, theirs = spread_items(answer), spread_items(gold)
        if mine is None or theirs is None:
            return False
        if (is_single(answer) and not has_sign(answer)) or (is_single(gold) and not has_sign(gold)):
            return all_of((self.match(mine, theirs), len(theirs) == len(mine) or None)) if len(mine) == len(theirs) else False
        return self.match(mine, theirs)

    # --- collections

    def matrix(self, answer: Node, gold: Node) -> bool | None:
        if answer.kind is gold.kind:
            if answer.kind is Kind.DETERMINANT:
                if answer.text != gold.text:
                    return False
                answer, gold = answer.items[0], gold.items[0]
            if answer.text != gold.text:
                return False
            return all_of(self.value(mine, theirs) for mine, theirs in zip(answer.items, gold.items, strict=True))
        if Kind.CALL in (answer.kind, gold.kind):
            answer, gold = _column(answer), _column(gold)
            return self.matrix(answer, gold) if answer.kind is gold.kind else False
        matrix, other = (answer, gold) if answer.kind is Kind.MATRIX else (gold, answer)
        if (
            matrix.kind is Kind.MATRIX
            and other.kind is Kind.TUPLE
            and matrix.text.endswith(" 1")
            and len(matrix.items) == len(other.items)
            and other.text != "["
        ):
            return all_of(self.value(mine, theirs) for mine, theirs in zip(answer.items, gold.items, strict=True))
        return False

    def tuple(self, answer: Node, gold: Node) -> bool | None:
        if answer.kind is not gold.kind or len(answer.items) != len(gold.items) or (answer.text == "[") != (gold.text == "["):
            return False
        return all_of(self.value(mine, theirs) for mine, theirs in zip(answer.items, gold.items, strict=True))

    def unordered(self, answer: Node, gold: Node) -> bool | None:
        if answer.kind is Kind.LIST and gold.kind not in (Kind.LIST, Kind.SET):
            return all_of(self.value(item, gold) for item in answer.items)
        if answer.kind not in (Kind.LIST, Kind.SET) or gold.kind not in (Kind.LIST, Kind.SET):
            return False
        if not answer.items or not gold.items:
            return not answer.items and not gold.items
        return self.match(answer.items, gold.items)

    def match(self, mine: Sequence[Node], theirs: Sequence[Node]) -> bool | None:
        """Every item of either side has an equal one on the other; duplicates do not count."""
        if len(mine) * len(theirs) > MAX_PAIRS:
            return False
        table = [[self.value_of_item(each, other) for other in theirs] for each in mine]
        rows = [any_of(row) for row in table]
        columns = [any_of(row[at] for row in table) for at in range(len(theirs))]
        return all_of(rows + columns)

    def value_of_item(self, answer: Node, gold: Node) -> bool | None:
        return self.reading(answer, gold)

    def sets(self, answer: Node, gold: Node) -> bool | None:
        """Sets of reals: as intervals, unions, conditions in one variable."""
        both_conditions = _is_condition(answer) and _is_condition(gold)
        mine, theirs = solution_set(answer), solution_set(gold)
        if mine is not None and theirs is not None:
            if both_conditions and mine[0] != theirs[0] and None not in (mine[0], theirs[0]):
                return False
            same = lines.same_set(mine[1], theirs[1], self.order)
            if same is not None:
                return same
            paired = self.pieces(mine[1], theirs[1])
            if paired is not None and not both_conditions:
                return paired
        if both_conditions:
            return self.conditions(answer, gold)
        if mine is None or theirs is None:
            return False
        return None

    def pieces(self, answer: Node, gold: Node) -> bool | None:
        """Intervals with ends that have no order here: piece by piece."""
        if (answer.kind is Kind.TUPLE and gold.kind is Kind.INTERVAL) or (answer.kind is Kind.INTERVAL and gold.kind is Kind.TUPLE):
            answer, gold = lines.as_interval(answer), lines.as_interval(gold)
        if answer.kind is Kind.UNION and gold.kind is Kind.UNION and len(answer.items) == len(gold.items):
            table = [[self.pieces(each, other) for other in gold.items] for each in answer.items]
            return True if all_of(any_of(row) for row in table) and all_of(any_of(row[at] for row in table) for at in range(len(table))) else None
        if answer.kind is not gold.kind or answer.text != gold.text or len(answer.items) != len(gold.items) or answer.kind is Kind.UNION:
            return None
        if answer.kind is Kind.SET:
            return True if self.match(answer.items, gold.items) else None
        if answer.kind is Kind.DIFFERENCE:
            return True if all_of(self.pieces(each, other) for each, other in zip(answer.items, gold.items, strict=True)) else None
        return all_of(self.value(each, other) for each, other in zip(answer.items, gold.items, strict=True))

    def conditions(self, answer: Node, gold: Node) -> bool | None:
        if answer.kind is Kind.RELATION and gold.kind is Kind.RELATION:
            return self.relations(answer, gold)
        if answer.kind is Kind.LIST and gold.kind is Kind.LIST and len(answer.items) == len(gold.items):
            return self.match(answer.items, gold.items)
        return False


def any_of(results: Iterable[bool | None]) -> bool | None:
    """Three-valued or; stops at the first True."""
    unknown = False
    for result in results:
        if result:
            return True
        unknown = unknown or result is None
    return None if unknown else False


def all_of(results: Iterable[bool | None]) -> bool | None:
    """Three-valued and; stops at the first False."""
    unknown = False
    for result in results:
        if result is False:
            return False
        unknown = unknown or result is None
    return None if unknown else True


def as_ordered(answer: Node, gold: Node) -> tuple[Node, Node] | None:
    """A bare list against values with different names: in the order in which the gold names them."""
    if answer.kind is not Kind.LIST or answer.text == "or" or gold.kind is not Kind.LIST or len(answer.items) != len(gold.items):
        return None
    names = [said(item).name for item in gold.items]
    if any(item.kind is Kind.RELATION for item in answer.items):
        return None
    labels = {label(name) for name in names if name is not None}
    stems = {each.partition("_")[0] for each in labels}
    if len(labels) < len(gold.items) or len(stems) == 1:
        return None
    return Node(Kind.TUPLE, "(", answer.items), Node(Kind.TUPLE, "(", tuple(said(item).value for item in gold.items))


def candidates(chain: Said) -> tuple[Node, ...]:
    """What a chain offers to the comparison: its value, and its decimal where the value is none itself."""
    near = () if chain.value.kind is Kind.NUMBER else chain.near
    return (chain.value, *near, *chain.also)


def is_equation(node: Node) -> bool:
    return node.kind is Kind.RELATION and node.text == "="


def is_single(node: Node) -> bool:
    return node.kind not in (Kind.LIST, Kind.SET)


def has_text(node: Node) -> bool:
    return node.kind is Kind.TEXT


def same_text(answer: Node, gold: Node) -> bool:
    """Folded words; a text never equals a number."""
    if answer.kind is Kind.LIST and gold.kind is Kind.LIST:
        return False
    return _words(answer) is not None and _words(answer) == _words(gold)


def _words(node: Node) -> str | None:
    if node.kind is Kind.NAME and len(node.text) == 1:
        return None
    return node.text.lower() if node.kind in (Kind.TEXT, Kind.WORD, Kind.NAME) else None


def same_choice(answer: Node, gold: Node) -> bool:
    """The letter leads; it may come with its text."""
    letters = [node.text for node in (answer, gold) if node.kind in (Kind.CHOICE, Kind.NAME)]
    return len(letters) == 2 and letters[0].upper() == letters[1].upper() and gold.text.isupper()


def bare(node: Node, kind: Kind) -> Node:
    return node.items[0] if node.kind is kind else node


def plain_group(node: Node) -> Node:
    """A minus before a decorated number belongs inside."""
    if node.kind is Kind.NEGATIVE and node.items[0].kind in (Kind.UNIT, Kind.PERCENT, Kind.DEGREE):
        inner = node.items[0]
        return Node(inner.kind, inner.text, (Node(Kind.NEGATIVE, "", inner.items),))
    return node


def _is_temperature(answer: Node, gold: Node) -> bool:
    return any(node.kind is Kind.UNIT and node.text.startswith("degree") for node in (answer, gold))


def clock_ratio(node: Node) -> Node | None:
    if node.kind is not Kind.CLOCK:
        return node
    if " " in node.text:
        return None
    hour, _, minute = node.text.partition(":")
    if minute.startswith("0") or int(hour) == 0 or not _coprime_or_zero(int(hour), int(minute)):
        return None
    return Node(Kind.RATIO, "", (Node(Kind.NUMBER, hour), Node(Kind.NUMBER, str(int(minute)))))


def _coprime_or_zero(hour: int, minute: int) -> bool:
    return hour > 0 and minute > 0


def terms_of_ratio(node: Node) -> tuple[Node, ...] | None:
    if node.kind is Kind.RATIO:
        return node.items
    if node.kind is Kind.QUOTIENT:
        return node.items
    if node.kind in (Kind.LIST, Kind.SET, Kind.TUPLE, Kind.RELATION, Kind.INTERVAL, Kind.MATRIX):
        return None
    return (node, Node(Kind.NUMBER, "1"))


def _times(left: Node, right: Node) -> Node:
    return Node(Kind.PRODUCT, "", (left, right))


def spread_items(node: Node) -> list[Node] | None:
    """All values of an answer with ±."""
    items = node.items if node.kind in (Kind.LIST, Kind.SET) else (node,)
    found: list[Node] = []
    for item in items:
        values = spread(said(item).value)
        if values is None or len(found) + len(values) > 64:
            return None
        found.extend(values)
    return found


def _column(node: Node) -> Node:
    """A binomial sign may be a column of two."""
    return Node(Kind.MATRIX, "2 1", node.items) if node.kind is Kind.CALL and node.text == "binom" else node


def same_constant(answer: Node, gold: Node) -> tuple[Node, Node]:
    """The constant of integration has one name: +c, +K and +C say the same where the gold ends in +C."""
    if gold.kind is not Kind.SUM or answer.kind is not Kind.SUM:
        return answer, gold
    wanted = [item for item in gold.items if item.kind is Kind.NAME and item.text == "C"]
    if len(wanted) != 1 or any(item.kind is Kind.NAME and item.text == "C" for item in answer.items):
        return answer, gold
    inside = free_names(gold) | {"C"}
    for letter in _CONSTANT_LETTERS[1:]:
        constant = Node(Kind.NAME, letter)
        if letter not in inside and answer.items.count(constant) == 1:
            return Node(Kind.SUM, "", tuple(wanted[0] if item == constant else item for item in answer.items)), gold
    return answer, gold


def _is_line(node: Node) -> bool:
    return node.kind in _COLLECTIONS or _is_condition(node)


def _is_condition(node: Node) -> bool:
    if node.kind is Kind.LIST:
        return all(_is_condition(item) for item in node.items)
    return node.kind is Kind.RELATION and node.text != "="
