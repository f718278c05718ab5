"""A cursor over the tokens of one answer, with a counted depth: what all parts of the grammar stand on.

Owns the refusal `NoParse` and the reading of plain numbers. Knows no grammar; its parts are mixed into `verifier.grammar.Parser`.
"""

import abc

from verifier.nodes import Kind, Node
from verifier.tokens import END, Token

MAX_NESTING = 32
MAX_ITEMS = 64


class NoParse(Exception):  # noqa: N818 - not an error of ours: the answer is not in the language
    """The tokens are no expression of the language, or out of its bounds."""


class Cursor(abc.ABC):
    """Tokens, a place among them, and the marks that brackets set while they are open."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.nesting = 0
        self.bars = 0
        """Open absolute bars: a bar after a value closes the last one."""
        self.no_bar = False
        self.no_ratio = False
        """In a set, a bar or colon after the first item opens its condition."""
        self.money = ""

    @abc.abstractmethod
    def relation(self) -> Node: ...

    @abc.abstractmethod
    def items_until(self, closing: str) -> Node: ...

    @abc.abstractmethod
    def stacked(self) -> Node: ...

    @abc.abstractmethod
    def sum(self) -> Node: ...

    @abc.abstractmethod
    def term(self) -> Node: ...

    @abc.abstractmethod
    def signed_factor(self) -> Node: ...

    @abc.abstractmethod
    def primary(self) -> Node: ...

    @abc.abstractmethod
    def factor(self) -> Node: ...

    @abc.abstractmethod
    def group(self, token: Token) -> Node: ...

    @abc.abstractmethod
    def exponent(self, *, whole_number: bool = False) -> Node: ...

    @abc.abstractmethod
    def argument(self, *, whole_number: bool = False) -> Node: ...

    def peek(self, ahead: int = 0) -> Token:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else END

    def take(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def accept(self, kind: str) -> bool:
        if self.peek().kind == kind:
            self.at += 1
            return True
        return False

    def expect(self, kind: str) -> None:
        if not self.accept(kind):
            raise NoParse(kind)

    def nest(self) -> None:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise NoParse("nesting")

    def replace(self, *tokens: Token) -> None:
        """Put other tokens in the place of the one under the cursor."""
        self.tokens = [*self.tokens[: self.at], *tokens, *self.tokens[self.at + 1 :]]

    def arguments(self, closing: str) -> tuple[Node, ...]:
        """Expressions between separators, up to a closing token."""
        bars, self.bars = self.bars, 0
        items = [self.sum()]
        while self.accept(",") or self.accept(";"):
            items.append(self.sum())
            if len(items) > 8:
                raise NoParse("arguments")
        self.expect(closing)
        self.bars = bars
        return tuple(items)


def plain_number(text: str) -> Node:
    """A number without superfluous zeros: "007.50" is "7.5", "4.7e6" is "4700000"."""
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, decimals = mantissa.partition(".")
    if exponent:
        shift = int(exponent) if len(exponent) < 6 else 10**6
        if abs(shift) > 4000:
            raise NoParse("exponent")
        if shift >= 0:
            decimals = decimals.ljust(shift, "0")
            whole, decimals = whole + decimals[:shift], decimals[shift:]
        else:
            whole = whole.rjust(-shift + 1, "0")
            whole, decimals = whole[:shift], whole[shift:] + decimals
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    return Node(Kind.NUMBER, f"{whole}.{decimals}" if decimals else whole)
