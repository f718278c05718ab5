"""Numbers as they are written: decimals, repeating decimals, numbers of a base, mixed numbers.

A part of the grammar. Knows no values: a number stays its digits.
"""

from verifier.cursor import Cursor, NoParse, plain_number
from verifier.nodes import Kind, Node
from verifier.tokens import Token

_FRACTIONS = ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac", "\\nicefrac", "\\sfrac")
_BASES = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"]


class Numerals(Cursor):
    """Reads what begins with digits."""

    def number(self, token: Token) -> Node:
        value = token.value
        following = self.peek()
        if "." in value and following.value in ("\\overline", "\\bar", "\\dot"):
            return self.repeating(value)
        if value.endswith(".") and following.kind == "(" and not following.spaced and self.peek(1).kind == "number" and self.peek(2).kind == ")":
            digits = self.peek(1).value
            self.at += 3
            if digits.isdigit():
                return Node(Kind.REPEATING, f"{value}({digits})")
        if following.kind == "_":
            self.at += 1
            return self.based(value)
        if not value[-1].isdigit() and value[-1] != ".":
            raise NoParse("digits of no base")
        node = plain_number(value)
        if value.isdigit():
            return self.mixed(node)
        return node

    def repeating(self, value: str) -> Node:
        first = self.take().value
        digits = self.digits()
        if first == "\\dot" and self.peek().kind in ("number", "structure"):
            between = self.take().value if self.peek().kind == "number" else ""
            if self.peek().value == "\\dot":
                self.at += 1
                digits += between + self.digits()
            else:
                raise NoParse("dot")
        whole, _, decimals = value.partition(".")
        return Node(Kind.REPEATING, f"{whole.lstrip('0') or '0'}.{decimals}({digits})")

    def digits(self) -> str:
        braced = self.accept("{")
        token = self.take()
        if token.kind != "number" or not token.value.isdigit():
            raise NoParse("digits")
        if braced:
            self.expect("}")
        return token.value

    def based(self, digits: str) -> Node:
        digits = digits.upper()
        braced = self.accept("{")
        token = self.take()
        if token.kind in ("text", "word") and token.value.lower() in _BASES:
            token = Token("number", str(_BASES.index(token.value.lower()) + 2), False)
        if token.kind != "number" or not token.value.isdigit() or not 2 <= int(token.value[:4]) <= 36:
            raise NoParse("base")
        if braced:
            self.expect("}")
        base = int(token.value)
        if any(int(letter, 36) >= base for letter in digits.replace(".", "")):
            raise NoParse("digit out of its base")
        return Node(Kind.BASED, f"{digits.lstrip('0') or '0'}_{base}")

    def mixed(self, whole: Node) -> Node:
        """An integer before a fraction of two integers is a mixed number; so is `8 2/5`."""
        token = self.peek()
        if token.value in _FRACTIONS and "number" in (self.peek(1).kind, self.peek(2).kind):
            start = self.at
            self.at += 1
            above, below = self.argument(), self.argument()
            if (
                above.kind is Kind.NUMBER
                and below.kind is Kind.NUMBER
                and above.text.isdigit()
                and below.text.isdigit()
                and self.peek().kind not in ("^", "_")
            ):
                return Node(Kind.MIXED, "", (whole, above, below))
            self.at = start
        elif token.kind == "number" and token.spaced and self.peek(1).kind == "/" and self.peek(2).kind == "number":
            digits = token.value, self.peek(2).value
            if digits[0].isdigit() and digits[1].isdigit():
                self.at += 3
                return Node(Kind.MIXED, "", (whole, plain_number(digits[0]), plain_number(digits[1])))
        return whole

    def point(self, token: Token) -> Node:
        """A bare point before an overline: `.\\overline{45}`."""
        if token.value == "." and self.peek().value in ("\\overline", "\\bar", "\\dot"):
            return self.repeating("0.")
        raise NoParse("text")
