"""The expression grammar: tokens of one answer to a tree, by precedence climbing with a counted depth.

Owns precedence, relations and lists; names, numbers, brackets and commands are its parts in modules of their own. Called by `verifier.answers`,
which knows what stands around an expression (choices, clocks, words). Knows no values beyond digits and no sympy.
"""

from verifier.cursor import MAX_ITEMS, NoParse
from verifier.nodes import Kind, Node
from verifier.suffixes import Suffixes
from verifier.tokens import Token

RELATIONS = frozenset(("=", "!=", "<", "<=", ">", ">=", "in", "~", "==="))
ELLIPSES = ("\\ldots", "\\dots", "\\cdots")
_STARTS = frozenset(("number", "name", "word", "upright", "function", "structure", "(", "{", "[", "<<", "{{", "lfloor", "lceil", "$", "."))
ELLIPSIS = Node(Kind.NAME, "\\ldots")
_MANY_ARGUMENTS = frozenset(("max", "min", "gcd", "lcm", "mod", "binom"))
_INVERSES = {
    "sin": "arcsin",
    "cos": "arccos",
    "tan": "arctan",
    "cot": "arccot",
    "sec": "arcsec",
    "csc": "arccsc",
    "sinh": "arsinh",
    "cosh": "arcosh",
    "tanh": "artanh",
}


class Parser(Suffixes):
    """One pass over the tokens of one answer."""

    def whole(self) -> Node:
        """The tree of all tokens."""
        node = self.items_until("end")
        if self.at < len(self.tokens):
            raise NoParse("rest")
        return node

    def items_until(self, closing: str) -> Node:
        items = [self.relation()]
        words = set()
        while self.peek().kind in (",", ";", "and", "or"):
            while self.peek().kind in (",", ";", "and", "or"):
                words.add(self.take().kind)
            if self.peek().kind == closing:
                if closing != "end" or words - {",", ";"}:
                    raise NoParse("separator")
                break
            items.append(self.relation())
            if len(items) > MAX_ITEMS:
                raise NoParse("items")
        if len(items) == 1:
            return items[0]
        return Node(Kind.LIST, "or" if "or" in words else "and" if "and" in words else ",", tuple(items))

    def relation(self) -> Node:
        """expr {op expr}, each side with its unit."""
        if self.peek().value in ELLIPSES:
            self.at += 1
            return ELLIPSIS
        sides = [self.left_side() or self.ratio()]
        operators: list[str] = []
        while True:
            kind = self.peek().kind
            if kind == "not" and self.peek(1).kind in ("=", "in"):
                self.at += 1
                kind = "!=" if self.peek().kind == "=" else "notin"
            if kind not in RELATIONS:
                break
            self.at += 1
            operators.append(kind)
            sides.append(self.ratio())
            if len(sides) > 16:
                raise NoParse("chain")
        return sides[0] if not operators else Node(Kind.RELATION, " ".join(operators), tuple(sides))

    def ratio(self) -> Node:
        first = self.set_expression()
        if self.no_ratio or (self.peek().kind != ":" and not self.is_to()):
            return self.with_unit(first)
        items = [first]
        while self.accept(":") or self.is_to():
            self.at += self.is_to()
            items.append(self.sum())
            if len(items) > 8:
                raise NoParse("ratio")
        return Node(Kind.RATIO, "", tuple(items))

    def is_to(self) -> bool:
        return self.peek().kind in ("text", "word") and self.peek().value == "to"

    def set_expression(self) -> Node:
        left = self.stacked()
        while True:
            kind = self.peek().kind
            if kind == "name" and self.peek().value == "U" and left.kind in (Kind.TUPLE, Kind.INTERVAL, Kind.SET, Kind.UNION):
                kind = "cup"
            if kind not in ("cup", "cap", "minus"):
                return left
            self.at += 1
            right = self.sum()
            if kind == "minus":
                left = Node(Kind.DIFFERENCE, "", (left, right))
                continue
            joined = Kind.UNION if kind == "cup" else Kind.INTERSECTION
            left = Node(joined, "", (*left.items, right) if left.kind is joined else (left, right))
            if len(left.items) > MAX_ITEMS:
                raise NoParse("sets")

    def stacked(self) -> Node:
        """TeX's old ways: `a \\over b`, `n \\choose k`."""
        above = self.sum()
        if self.accept("over"):
            return Node(Kind.QUOTIENT, "", (above, self.sum()))
        return Node(Kind.CALL, "binom", (above, self.sum())) if self.accept("choose") else above

    def sum(self) -> Node:
        self.nest()
        terms: list[Node] = []
        while True:
            sign = self.peek().kind
            if sign in ("+", "-", "+-", "-+"):
                self.at += 1
            elif terms:
                break
            term = self.term()
            if sign in ("-", "+-", "-+"):
                term = Node({"-": Kind.NEGATIVE, "+-": Kind.PLUS_MINUS, "-+": Kind.MINUS_PLUS}[sign], "", (term,))
            terms.append(term)
        self.nesting -= 1
        return terms[0] if len(terms) == 1 else Node(Kind.SUM, "", tuple(terms))

    def term(self) -> Node:
        """A product, read from the left; juxtaposition binds like the dot."""
        factors = [self.signed_factor()]
        while True:
            kind = self.peek().kind
            if kind == "*":
                self.at += 1
                factors.append(self.signed_factor())
            elif kind == "/" and not self.is_unit_at(1):
                self.at += 1
                factors = [Node(Kind.QUOTIENT, "", (_product(factors), self.signed_factor()))]
            elif kind == "function" and self.peek().value == "mod":
                self.at += 1
                factors = [Node(Kind.CALL, "mod", (_product(factors), self.factor()))]
            elif self.starts_factor(factors[-1]):
                factors.append(self.factor())
            else:
                return _product(factors)

    def starts_factor(self, before: Node) -> bool:
        token = self.peek()
        if token.kind == "|":
            return self.bars == 0 and not self.no_bar
        if token.kind not in _STARTS or token.kind == "$" or self.is_to() or self.is_quantifier() or self.is_unit_at(0) or self.is_unit_fraction():
            return False
        if token.kind == "word" and token.spaced and (before.kind is Kind.WORD or (before.kind is Kind.NAME and len(token.value) > 2)):
            raise NoParse("words")
        if token.kind == "number":
            return before.kind not in (Kind.NUMBER, Kind.REPEATING, Kind.MIXED)
        if token.kind == "name" and token.value == "U" and before.kind in (Kind.TUPLE, Kind.INTERVAL, Kind.SET):
            return False
        return not (token.kind == "[" and before.kind in (Kind.TUPLE, Kind.INTERVAL, Kind.SET))

    def signed_factor(self) -> Node:
        signs = 0
        while self.peek().kind in ("+", "-"):
            signs += self.take().kind == "-"
        if self.peek().kind in ("+-", "-+"):
            kind = Kind.PLUS_MINUS if self.take().kind == "+-" else Kind.MINUS_PLUS
            return Node(kind, "", (self.factor(),))
        node = self.factor()
        return Node(Kind.NEGATIVE, "", (node,)) if signs % 2 else node

    def factor(self) -> Node:
        return self.postfix(self.primary())

    def postfix(self, node: Node) -> Node:
        for _ in range(8):
            token = self.peek()
            if token.kind == "^":
                self.at += 1
                node = self.power(node)
            elif token.kind == "!":
                self.at += 1
                if self.peek().kind == "!":
                    raise NoParse("double factorial")
                node = Node(Kind.CALL, "factorial", (node,))
            elif token.kind in ("%", "deg") and node.kind in (Kind.PERCENT, Kind.DEGREE):
                raise NoParse("two signs")
            elif token.kind == "%":
                self.at += 1
                node = Node(Kind.PERCENT, "", (node,))
            elif token.kind == "_" and node.kind is Kind.NUMBER:
                self.at += 1
                node = self.based(node.text)
            elif token.kind == "deg":
                self.at += 1
                node = self.degree(node)
            else:
                return node
        raise NoParse("postfix")

    def power(self, base: Node) -> Node:
        if self.peek().value == "\\circ" or (self.peek().kind == "{" and self.peek(1).value == "\\circ" and self.peek(2).kind == "}"):
            self.at += 3 if self.peek().kind == "{" else 1
            return self.degree(base)
        if self.peek().kind == "deg":
            self.at += 1
            return self.degree(base)
        return Node(Kind.POWER, "", (base, self.exponent(whole_number=base.kind is Kind.NUMBER)))

    def exponent(self, *, whole_number: bool = False) -> Node:
        """`2^10` is 1024 as all who write it mean it; `x^23` is what TeX makes of it."""
        sign = self.peek().kind
        if sign in ("-", "+"):
            self.at += 1
            node = self.argument(whole_number=True)
            return Node(Kind.NEGATIVE, "", (node,)) if sign == "-" else node
        return self.argument(whole_number=whole_number)

    def degree(self, node: Node) -> Node:
        token = self.peek()
        if token.value in ("C", "F") and token.kind in ("upright", "name"):
            self.at += 1
            return Node(Kind.UNIT, "degree " + token.value, (node,))
        return Node(Kind.DEGREE, "", (node,))

    def primary(self) -> Node:
        self.nest()
        token = self.take()
        handler = _PRIMARIES.get(token.kind)
        if handler is None:
            raise NoParse(token.kind)
        node = handler(self, token)
        self.nesting -= 1
        return node

    def function(self, token: Token) -> Node:
        """`\\sin^2 2x`: subscript, power, then the adjacent product."""
        name, base, power = token.value, None, None
        for _ in range(2):
            if self.peek().kind == "_" and base is None and name == "log":
                self.at += 1
                base = self.argument()
            elif self.peek().kind == "^" and power is None:
                self.at += 1
                power = self.exponent()
        if power is not None and power == Node(Kind.NEGATIVE, "", (Node(Kind.NUMBER, "1"),)) and name in _INVERSES:
            name, power = _INVERSES[name], None
        arguments = self.function_arguments(name)
        if name in ("binom", "mod") and len(arguments) != 2:
            raise NoParse("arguments")
        node = Node(Kind.CALL, name, arguments) if base is None else Node(Kind.CALL, "logb", (*arguments, base))
        return node if power is None else Node(Kind.POWER, "", (node, power))

    def function_arguments(self, name: str) -> tuple[Node, ...]:
        if self.peek().kind in ("(", "{"):
            closing = ")" if self.take().kind == "(" else "}"
            if closing == "}" and self.peek().kind == "(" and name in _MANY_ARGUMENTS:
                self.at += 1
                inner = self.arguments(")")
                self.expect("}")
                return inner
            arguments = self.arguments(closing)
            if len(arguments) > 1 and name not in _MANY_ARGUMENTS:
                raise NoParse("arguments")
            return arguments
        signs = 0
        while self.peek().kind == "-":
            self.at += 1
            signs += 1
        factors = [self.factor()]
        while self.peek().kind not in ("function", "(", "[", "{{") and self.starts_factor(factors[-1]):
            factors.append(self.factor())
        node = _product(factors)
        return (Node(Kind.NEGATIVE, "", (node,)) if signs % 2 else node,)


def _product(factors: list[Node]) -> Node:
    if len(factors) == 2 and factors[1].kind is Kind.TUPLE and factors[0].kind is Kind.NAME and factors[0].text.isupper():
        if factors[0].text == "C" and len(factors[1].items) == 2 and all(item.text.isdigit() for item in factors[1].items):
            return Node(Kind.CALL, "binom", factors[1].items)
        return Node(Kind.RELATION, "=", tuple(factors))
    return factors[0] if len(factors) == 1 else Node(Kind.PRODUCT, "", tuple(factors))


_PRIMARIES = {
    "number": Parser.number,
    "name": Parser.name,
    "upright": Parser.name,
    "word": Parser.word,
    "text": Parser.point,
    ".": Parser.point,
    "function": Parser.function,
    "structure": Parser.structure,
    "(": Parser.parenthesis,
    "[": Parser.bracketed,
    "<<": Parser.bracket,
    "]": Parser.bracket,
    "{": Parser.group,
    "{{": Parser.braces,
    "|": Parser.bar,
    "lfloor": Parser.rounded,
    "lceil": Parser.rounded,
    "$": Parser.dollar,
    "euro": Parser.dollar,
    "pounds": Parser.dollar,
}
