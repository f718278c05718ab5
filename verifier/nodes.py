"""The tree of an answer: what the parser builds, what crosses the pipe to the child, what is compared.

Owns the shape of a node and its bytes. One frozen struct for every kind: `text` holds what a leaf says, `items` the children; `ARITY` is the
table of what each kind may hold. Called by parser, comparison and the sandbox. Knows no LaTeX and no sympy.
"""

import enum

import msgspec

MAX_NODES = 2048
MAX_DEPTH = 64


class Kind(enum.StrEnum):
    NUMBER = "number"  # text: "12" or "12.8", without superfluous zeros
    REPEATING = "repeating"  # text: "0.1(6)"
    BASED = "based"  # text: "132_4", digits and base
    NAME = "name"  # text: "x", "x_1", "\\theta"
    WORD = "word"  # text: two to four plain letters: a product of names, or a word
    TEXT = "text"  # text: folded words
    CHOICE = "choice"  # text: the letter that leads an option with its content
    INFINITY = "infinity"
    SUM = "sum"
    PRODUCT = "product"
    QUOTIENT = "quotient"
    RATIO = "ratio"  # a:b:c; text: as a clock shows it, where it may be one
    NEGATIVE = "negative"
    PLUS_MINUS = "plus_minus"
    MINUS_PLUS = "minus_plus"
    POWER = "power"
    ROOT = "root"  # radicand, index
    MIXED = "mixed"  # whole, numerator, denominator
    CALL = "call"  # text: a function of the closed list
    APPLY = "apply"  # text: a name that is applied to the items
    SERIES = "series"  # text: "sum" or "product"; name, from, to, body
    PERCENT = "percent"
    DEGREE = "degree"
    UNIT = "unit"  # text: canonical unit
    LIST = "list"  # text: the connective, one of "," "and" "or"
    TUPLE = "tuple"  # text: "(" or "[" or "<"
    SET = "set"
    INTERVAL = "interval"  # text: "()", "(]", "[)" or "[]"
    UNION = "union"
    INTERSECTION = "intersection"
    DIFFERENCE = "difference"
    BUILDER = "builder"  # {name | condition}
    NUMBERS = "numbers"  # text: one of R Z Q N C
    MATRIX = "matrix"  # text: "rows columns"
    DETERMINANT = "determinant"  # a matrix between bars; text: "vmatrix" or "Vmatrix"
    RELATION = "relation"  # text: operators, separated by spaces
    CLOCK = "clock"  # text: "7:15 pm"
    EITHER = "either"  # readings of an ambiguous spelling; the other side decides


class Node(msgspec.Struct, frozen=True, array_like=True):
    kind: Kind
    text: str = ""
    items: tuple["Node", ...] = ()


_LEAVES = frozenset((Kind.NUMBER, Kind.REPEATING, Kind.BASED, Kind.NAME, Kind.WORD, Kind.TEXT, Kind.CHOICE, Kind.INFINITY, Kind.NUMBERS, Kind.CLOCK))
_UNARY = frozenset((Kind.NEGATIVE, Kind.PLUS_MINUS, Kind.MINUS_PLUS, Kind.PERCENT, Kind.DEGREE, Kind.UNIT, Kind.DETERMINANT))
_BINARY = frozenset((Kind.QUOTIENT, Kind.POWER, Kind.ROOT, Kind.INTERVAL, Kind.DIFFERENCE, Kind.BUILDER))
ARITY: dict[Kind, tuple[int, int]] = (
    dict.fromkeys(_LEAVES, (0, 0))
    | dict.fromkeys(_UNARY, (1, 1))
    | dict.fromkeys(_BINARY, (2, 2))
    | {Kind.MIXED: (3, 3), Kind.SERIES: (4, 4), Kind.CALL: (1, 64), Kind.APPLY: (1, 8), Kind.SET: (0, 64), Kind.MATRIX: (1, 400)}
)
_MANY = (2, 512)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Node)


def encode(node: Node) -> bytes:
    """Bytes of a tree, the same for equal trees."""
    return _encoder.encode(node)


def decode(data: bytes) -> Node:
    """The tree that `encode` wrote. Raises ValueError for anything else, and for a tree out of bounds."""
    try:
        node = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("not the bytes of an answer tree") from error
    if not within_bounds(node):
        raise ValueError("an answer tree out of bounds")
    return node


def within_bounds(node: Node) -> bool:
    """True if the tree keeps to size, depth and the number of children of each kind."""
    seen = 0
    level = [node]
    for _ in range(MAX_DEPTH):
        seen += len(level)
        if seen > MAX_NODES:
            return False
        below: list[Node] = []
        for each in level:
            least, most = ARITY.get(each.kind, _MANY)
            if not least <= len(each.items) <= most:
                return False
            below.extend(each.items)
        if not below:
            return True
        level = below
    return False


def number(value: int) -> Node:
    """An integer as a node; a negative one wears its sign outside."""
    return Node(Kind.NUMBER, str(value)) if value >= 0 else Node(Kind.NEGATIVE, "", (Node(Kind.NUMBER, str(-value)),))
