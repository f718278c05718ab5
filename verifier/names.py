"""Names: letters with subscripts, words, applied functions, and what an answer may call itself.

A part of the grammar.
"""

from verifier.cursor import NoParse
from verifier.nodes import Kind, Node
from verifier.numerals import Numerals
from verifier.tokens import Token
from verifier.vocabulary import GREEK

APPLIED = frozenset("fghFGH") | {"\\phi", "\\varphi", "\\psi"}


class Names(Numerals):
    """Reads what begins with a letter."""

    def left_side(self) -> Node | None:
        """Words before an equals sign are a name."""
        end = self.at
        while end < len(self.tokens) and self.tokens[end].kind in ("text", "word") and end - self.at < 6:
            end += 1
        if end == self.at or end >= len(self.tokens) or self.tokens[end].kind != "=":
            return self.labelled_side()
        words = [token.value for token in self.tokens[self.at : end]]
        if not "".join(words).isalpha():
            raise NoParse("name")
        self.at = end
        if len(words) == 1 and len(words[0]) <= 4 and self.tokens[end - 1].kind == "word":
            return Node(Kind.WORD, words[0])
        return Node(Kind.NAME, " ".join(words).lower())

    def labelled_side(self) -> Node | None:
        """`P(X=2)` before an equals sign is a name: one letter and what its parentheses hold."""
        token, opening = self.peek(), self.peek(1)
        if token.kind not in ("name", "upright") or not token.value.isupper() or opening.kind != "(":
            return None
        end = self.at + 2
        while end < len(self.tokens) and end < self.at + 24 and self.tokens[end].kind not in (")", "("):
            end += 1
        if end + 1 >= len(self.tokens) or self.tokens[end].kind != ")" or self.tokens[end + 1].kind != "=":
            return None
        label = "".join(each.value for each in self.tokens[self.at : end + 1])
        self.at = end + 1
        return Node(Kind.NAME, label)

    def name(self, token: Token) -> Node:
        text = self.subscripted(token.value)
        while self.accept("'"):
            text += "'"
        following = self.peek()
        if (
            following.kind == "number"
            and not following.spaced
            and text not in ("i", "e")
            and text not in GREEK
            and "_" not in text
            and following.value.isdigit()
            and text.isalpha()
        ):
            self.at += 1
            return Node(Kind.NAME, f"{text}_{following.value}")
        if following.kind == "(" and (text.rstrip("'") in APPLIED or text.endswith("'")):
            return self.applied(text)
        if text.partition("_")[0] in APPLIED and following.kind == "^":
            return self.inverse(text)
        return Node(Kind.NAME, text)

    def inverse(self, text: str) -> Node:
        """`f^{-1}(x)` is the inverse function, `f^2` a power."""
        start = self.at
        self.at += 1
        exponent = self.exponent()
        if exponent.kind is Kind.NEGATIVE and exponent.items[0] == Node(Kind.NUMBER, "1") and self.peek().kind == "(":
            return self.applied(text + "^-1")
        self.at = start
        return Node(Kind.NAME, text)

    def applied(self, text: str) -> Node:
        self.expect("(")
        return Node(Kind.APPLY, text, self.arguments(")"))

    def subscripted(self, text: str) -> str:
        if self.peek().kind != "_":
            return text
        self.at += 1
        if not self.accept("{"):
            token = self.take()
            if token.kind not in ("number", "name", "upright", "word"):
                raise NoParse("subscript")
            if token.kind == "number" and len(token.value) > 1:
                self.at -= 1
                self.replace(Token("number", token.value[1:], False))
                return f"{text}_{token.value[0]}"
            return f"{text}_{token.value}"
        inside: list[str] = []
        while not self.accept("}"):
            token = self.take()
            if token.kind in ("end", "{", "function") or len(inside) > 12:
                raise NoParse("subscript")
            inside.append(token.value)
        joined = "".join(inside)
        return f"{text}_{joined}"

    def word(self, token: Token) -> Node:
        if self.peek().kind == "_" and self.peek(1).kind in ("{", "number"):
            self.at += 1
            return self.based(token.value.upper())
        if self.peek().kind in ("^", "_", "!", "'") and token.value.isalpha() and len(token.value) <= 4:
            self.at -= 1
            self.replace(rest_of(token.value[:-1]), rest_of(token.value[-1]))
            self.at += 1
            return Node(Kind.WORD if len(token.value) > 2 else Kind.NAME, token.value[:-1])
        if len(token.value) > 4 or not token.value.isalpha():
            raise NoParse("word")
        return Node(Kind.WORD, token.value)

    def named(self, token: Token) -> Node:
        """`\\angle ABC`, `\\overline{AB}`: the name of a thing."""
        braced = self.accept("{")
        letters = ""
        while self.peek().kind in ("name", "word", "upright") and len(letters) < 8:
            letters += self.take().value
        if braced:
            self.expect("}")
        if not letters:
            raise NoParse("name")
        return Node(Kind.NAME, f"{token.value[1:]} {letters}")

    def marked(self, token: Token) -> Node:
        inner = self.argument()
        if inner.kind not in (Kind.NAME, Kind.WORD):
            raise NoParse("mark")
        return Node(Kind.NAME, f"{token.value[1:]} {inner.text}")


def rest_of(letters: str) -> Token:
    """What is left of a word after its first letters were taken."""
    return Token("name" if len(letters) == 1 else "word", letters, False)
