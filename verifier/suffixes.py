"""Units and money after or before a value.

A part of the grammar; the closed list of units is `verifier.units`.
"""

from verifier.brackets import Brackets
from verifier.cursor import NoParse
from verifier.nodes import Kind, Node
from verifier.tokens import Token
from verifier.units import POWER_WORDS, POWER_WORDS_AFTER, SHORT, UNITS, UPRIGHT_ONLY

_MONEY = {"$": "dollar", "euro": "euro", "pounds": "pound"}


class Suffixes(Brackets):
    """Reads units."""

    def is_unit_at(self, ahead: int) -> bool:
        """True if a unit stands there: upright or plain words of the closed list, after a value."""
        token = self.peek(ahead)
        if token.kind == "upright":
            return self.at + ahead > 0 and token.value in SHORT and token.value in UNITS
        if token.kind not in ("text", "word") or (token.kind == "word" and token.value in UPRIGHT_ONLY):
            return False
        return (
            (token.value in UNITS and (token.kind == "text" or len(token.value) > 1))
            or token.value.lower() in POWER_WORDS
            or (token.value.lower() in UNITS and len(token.value) > 2)
        )

    def is_unit_fraction(self) -> bool:
        """`\\frac{\\text{m}}{\\text{s}}` after a value."""
        if self.peek().value not in ("\\frac", "\\dfrac", "\\tfrac") or self.at == 0:
            return False
        return self.peek(1).kind == "{" and self.is_unit_at(2) and self.peek(3).kind == "}" and self.peek(4).kind == "{" and self.is_unit_at(5)

    def is_quantifier(self) -> bool:
        """`(k \\in \\mathbb{Z})` after a value says over what a name runs, and no more."""
        return self.peek().kind == "(" and self.peek(1).kind == "name" and self.peek(2).kind == "in" and self.peek(3).value == "\\mathbb"

    def with_unit(self, node: Node) -> Node:
        if self.is_quantifier():
            self.at += 1
            self.relation()
            self.expect(")")
        money, self.money = self.money, ""
        unit = money
        if not money and self.peek().kind in _MONEY and node.kind is Kind.NUMBER:
            unit = _MONEY[self.take().kind]
        if self.is_unit_fraction():
            self.at += 2
            unit = self.unit()
            self.at += 2
            unit = f"{unit} / {self.unit()}"
            self.expect("}")
        while self.is_unit_at(0) or (unit and self.peek().value in ("per", "/")):
            unit = f"{unit} {self.unit()}".strip()
            if len(unit) > 80:
                raise NoParse("unit")
        if (self.peek().kind == "function" and self.peek().value == "pmod") or self.peek().kind == "pmod":
            self.at += 1
            modulus = self.argument()
            if modulus.kind is not Kind.NUMBER:
                raise NoParse("modulus")
            unit = f"{unit} mod {modulus.text}".strip()
        if unit == "degree":
            return node if node.kind is Kind.DEGREE else Node(Kind.DEGREE, "", (node,))
        if unit == "percent":
            return Node(Kind.PERCENT, "", (node,))
        return Node(Kind.UNIT, unit, (node,)) if unit else node

    def unit(self) -> str:
        token = self.take()
        if token.value in ("per", "/"):
            if not self.is_unit_at(0):
                raise NoParse("unit")
            return "/ " + self.unit()
        power = POWER_WORDS.get(token.value.lower(), 1)
        if token.value.lower() in POWER_WORDS and self.is_unit_at(0):
            token = self.take()
        elif token.value.lower() in POWER_WORDS and token.value not in UNITS:
            raise NoParse("unit")
        name = UNITS.get(token.value) or UNITS[token.value.lower()]
        if self.peek().value.lower() in POWER_WORDS_AFTER:
            power = POWER_WORDS_AFTER[self.take().value.lower()]
        if self.accept("^"):
            exponent = self.argument()
            if exponent.kind is not Kind.NUMBER:
                raise NoParse("unit")
            power = int(exponent.text[:2])
        return name if power == 1 else f"{name}^{power}"

    def dollar(self, token: Token) -> Node:
        self.money = _MONEY[token.kind]
        return self.signed_factor()
