"""Commands with arguments: fractions, roots, series, integrals, matrices.

A part of the grammar; the table at the end says which method reads which command.
"""

from verifier.cursor import NoParse, plain_number
from verifier.names import Names, rest_of
from verifier.nodes import Kind, Node
from verifier.tokens import Token
from verifier.vocabulary import MARKED

MAX_ENTRIES = 400
MATRICES = frozenset(["matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "psmallmatrix", "bsmallmatrix", "array"])
_NUMBER_SETS = frozenset("RZQNC")


class Commands(Names):
    """Reads what begins with a backslash."""

    def structure(self, token: Token) -> Node:
        handler = _STRUCTURES.get(token.value)
        if handler is None:
            raise NoParse(token.value)
        return handler(self, token)

    def argument(self, *, whole_number: bool = False) -> Node:
        """What TeX takes as one argument: a group, one digit (or all of a number), one letter, or a command with its own."""
        token = self.peek()
        if token.kind == "{":
            self.at += 1
            return self.group(token)
        if token.kind == "number":
            if not token.value[0].isdigit():
                raise NoParse("argument")
            rest = token.value[1:]
            self.at += 1
            if rest and whole_number:
                return plain_number(token.value)
            if rest:
                self.at -= 1
                if not rest.isdigit():
                    raise NoParse("argument")
                self.replace(Token("number", rest, False))
            return plain_number(token.value[0])
        if token.kind in ("name", "upright"):
            self.at += 1
            return Node(Kind.NAME, token.value)
        if token.kind == "word" and token.value.isalpha():
            self.replace(Token("name", token.value[0], token.spaced), rest_of(token.value[1:]))
            self.at += 1
            return Node(Kind.NAME, token.value[0])
        if token.kind in ("structure", "function", "(", "|"):
            return self.primary()
        raise NoParse("argument")

    def fraction(self, token: Token) -> Node:
        variable = self.differential()
        if variable:
            return Node(Kind.CALL, "derivative", (self.term(), Node(Kind.NAME, variable)))
        return Node(Kind.QUOTIENT, "", (self.argument(), self.argument()))

    def differential(self) -> str:
        """The variable of `\\frac{d}{dx}`, which is taken; empty if something else stands there."""
        following = [self.peek(ahead) for ahead in range(7)]
        values = [token.value for token in following]
        if values[:4] == ["{", "d", "}", "{"] and len(values[4]) == 2 and values[4][0] == "d" and values[5] == "}":
            self.at += 6
            return values[4][1]
        return ""

    def integral(self, token: Token) -> Node:
        """A definite integral: `\\int_a^b f dx`."""
        self.expect("_")
        start = self.exponent()
        self.expect("^")
        end = self.exponent()
        closing = self.at
        while closing < len(self.tokens) and not (
            self.tokens[closing].kind == "word" and len(self.tokens[closing].value) == 2 and self.tokens[closing].value[0] == "d"
        ):
            closing += 1
        if closing >= len(self.tokens):
            raise NoParse("integral")
        variable = self.tokens[closing].value[1]
        self.tokens = [*self.tokens[:closing], Token("differential", variable, False), *self.tokens[closing + 1 :]]
        body = self.sum()
        self.expect("differential")
        return Node(Kind.SERIES, "integral", (Node(Kind.NAME, variable), start, end, body))

    def root(self, token: Token) -> Node:
        index = Node(Kind.NUMBER, "3" if token.value == "\\cbrt" else "2")
        if self.peek().kind == "[":
            self.at += 1
            index = self.sum()
            self.expect("]")
        return Node(Kind.ROOT, "", (self.argument(), index))

    def binomial(self, token: Token) -> Node:
        if self.peek().kind == "(":
            self.at += 1
            arguments = self.arguments(")")
            if len(arguments) != 2:
                raise NoParse("binomial")
            return Node(Kind.CALL, "binom", arguments)
        return Node(Kind.CALL, "binom", (self.argument(), self.argument()))

    def infinity(self, token: Token) -> Node:
        return Node(Kind.INFINITY)

    def empty(self, token: Token) -> Node:
        return Node(Kind.SET)

    def blackboard(self, token: Token) -> Node:
        braced = self.accept("{")
        letter = self.take().value
        if braced:
            self.expect("}")
        if letter not in _NUMBER_SETS:
            raise NoParse("blackboard")
        if self.peek().kind == "^":
            start = self.at
            self.at += 1
            if self.peek().kind not in ("+", "-", "{"):
                raise NoParse("power of a set")
            self.at = start
            raise NoParse("part of a set")
        return Node(Kind.NUMBERS, letter)

    def series(self, token: Token) -> Node:
        kind = "sum" if token.value == "\\sum" else "product"
        self.expect("_")
        self.expect("{")
        name = self.take()
        self.expect("=")
        start = self.sum()
        self.expect("}")
        self.expect("^")
        end = self.argument()
        if name.kind not in ("name", "upright"):
            raise NoParse("series")
        return Node(Kind.SERIES, kind, (Node(Kind.NAME, name.value), start, end, self.term()))

    def environment(self, token: Token) -> Node:
        name = self.braced_word()
        if name not in MATRICES:
            raise NoParse("environment")
        if name == "array" and self.accept("{"):
            while self.peek().kind not in ("}", "end"):
                self.at += 1
            self.expect("}")
        rows = self.rows()
        if self.braced_word() != name or any(len(row) != len(rows[0]) for row in rows):
            raise NoParse("rows")
        matrix = Node(Kind.MATRIX, f"{len(rows)} {len(rows[0])}", tuple(entry for row in rows for entry in row))
        return Node(Kind.DETERMINANT, name, (matrix,)) if name in ("vmatrix", "Vmatrix") else matrix

    def rows(self) -> list[list[Node]]:
        rows: list[list[Node]] = [[]]
        entries = 0
        while True:
            rows[-1].append(self.sum())
            entries += 1
            if entries > MAX_ENTRIES:
                raise NoParse("entries")
            if self.accept("&"):
                continue
            if self.accept("\\\\") and self.peek().value != "\\end":
                rows.append([])
                continue
            if self.take().value != "\\end":
                raise NoParse("matrix")
            return rows

    def braced_word(self) -> str:
        self.expect("{")
        word = self.take().value
        self.expect("}")
        return word


_STRUCTURES = {
    **dict.fromkeys(("\\frac", "\\dfrac", "\\tfrac", "\\cfrac", "\\nicefrac", "\\sfrac"), Commands.fraction),
    **dict.fromkeys(("\\sqrt", "\\cbrt"), Commands.root),
    **dict.fromkeys(("\\binom", "\\dbinom", "\\tbinom"), Commands.binomial),
    **dict.fromkeys(("\\emptyset", "\\varnothing"), Commands.empty),
    **dict.fromkeys(("\\angle", "\\triangle", "\\overline", "\\bar", "\\overrightarrow", "\\measuredangle"), Commands.named),
    **dict.fromkeys(("\\sum", "\\prod"), Commands.series),
    **dict.fromkeys(MARKED, Commands.marked),
    "\\int": Commands.integral,
    "\\infty": Commands.infinity,
    "\\mathbb": Commands.blackboard,
    "\\begin": Commands.environment,
}
