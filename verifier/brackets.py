"""Brackets: groupings, tuples, intervals, sets, absolute values, floors.

A part of the grammar.
"""

from verifier.commands import Commands
from verifier.cursor import MAX_ITEMS, NoParse
from verifier.nodes import Kind, Node
from verifier.tokens import Token

_CLOSING = {"(": ")", "[": "]", "<<": ">>", "{{": "}}"}


class Brackets(Commands):
    """Reads what begins with an opening bracket."""

    def group(self, token: Token) -> Node:
        bars, self.bars = self.bars, 0
        node = self.stacked()
        self.expect("}")
        self.bars = bars
        return node

    def bracket(self, token: Token) -> Node:
        """Parentheses: a grouping, a tuple, or with other ends an interval."""
        start = self.at
        bars, self.bars, no_bar, self.no_bar, no_ratio, self.no_ratio = self.bars, 0, self.no_bar, False, self.no_ratio, False
        items = [self.relation()]
        while self.accept(",") or self.accept(";"):
            items.append(self.relation())
            if len(items) > MAX_ITEMS:
                raise NoParse("items")
        closing = self.take().kind
        self.bars, self.no_bar, self.no_ratio = bars, no_bar, no_ratio
        if len(items) == 2 and (token.kind == "]" or closing == "["):
            opened, closed = ("(" if token.kind == "]" else token.kind), (")" if closing == "[" else closing)
            if opened in "([" and closed in (")", "]"):
                return Node(Kind.INTERVAL, opened + closed, tuple(items))
        if len(items) == 2 and token.kind in "([" and closing in (")", "]"):
            infinite = any(item.kind is Kind.INFINITY or (item.items and item.items[0].kind is Kind.INFINITY) for item in items)
            if token.kind + closing in ("(]", "[)") or infinite:
                return Node(Kind.INTERVAL, token.kind + closing, tuple(items))
        if closing != _CLOSING.get(token.kind) or (len(items) == 1 and token.kind == "[" and start == 1 and self.at == len(self.tokens)):
            raise NoParse("bracket")
        return items[0] if len(items) == 1 else Node(Kind.TUPLE, token.kind[0], tuple(items))

    def braces(self, token: Token) -> Node:
        """A set by its items, or by a condition."""
        if self.accept("}}"):
            return Node(Kind.SET)
        bars, self.bars, no_bar, self.no_bar, no_ratio, self.no_ratio = self.bars, 0, self.no_bar, True, self.no_ratio, True
        items = [self.relation()]
        if self.peek().kind in ("|", ":"):
            self.at += 1
            self.no_bar = self.no_ratio = False
            condition = self.items_until("}}")
            self.expect("}}")
            self.bars, self.no_bar, self.no_ratio = bars, no_bar, no_ratio
            return Node(Kind.BUILDER, "", (items[0], condition))
        while self.accept(",") or self.accept(";"):
            items.append(self.relation())
            if len(items) > MAX_ITEMS:
                raise NoParse("items")
        self.expect("}}")
        self.bars, self.no_bar, self.no_ratio = bars, no_bar, no_ratio
        return Node(Kind.SET, "", tuple(items))

    def bar(self, token: Token) -> Node:
        self.bars += 1
        node = self.sum()
        self.expect("|")
        self.bars -= 1
        return Node(Kind.DETERMINANT, "vmatrix", (node,)) if node.kind is Kind.MATRIX else Node(Kind.CALL, "abs", (node,))

    def rounded(self, token: Token) -> Node:
        name, closing = ("floor", "rfloor") if token.kind == "lfloor" else ("ceil", "rceil")
        return Node(Kind.CALL, name, self.arguments(closing))

    def bracketed(self, token: Token) -> Node:
        """`[` opens an interval, a list, a grouping, or `\\left[\\begin{array}`."""
        if self.peek().value == "\\begin":
            node = self.sum()
            self.expect("]")
            return node
        return self.bracket(token)

    def parenthesis(self, token: Token) -> Node:
        if self.peek().value == "\\begin":
            node = self.sum()
            if not self.accept(")"):
                raise NoParse("parenthesis")
            return node
        return self.bracket(token)
