"""The expression grammar: tokens of one answer to a tree, by precedence climbing with a counted depth.

Owns precedence, arguments of commands, brackets, sets, relations and lists. Called by `verifier.answers`, which knows what stands around an
expression (choices, clocks, words). Knows no numbers beyond their digits and no sympy.
"""

from verifier.nodes import Kind, Node
from verifier.tokens import END, GREEK, MARKED, Token
from verifier.units import POWER_WORDS, POWER_WORDS_AFTER, SHORT, UNITS, UPRIGHT_ONLY

MAX_NESTING = 32
MAX_ITEMS = 64
MAX_ENTRIES = 400
APPLIED = frozenset("fghFGH") | {"\\phi", "\\varphi", "\\psi"}
RELATIONS = frozenset(("=", "!=", "<", "<=", ">", ">=", "in", "~"))
MATRICES = frozenset(["matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "psmallmatrix", "bsmallmatrix", "array"])
_CLOSING = {"(": ")", "[": "]", "<<": ">>", "{{": "}}"}
_STARTS = frozenset(("number", "name", "word", "upright", "function", "structure", "(", "{", "[", "<<", "{{", "lfloor", "lceil", "$", "."))
_NUMBER_SETS = frozenset("RZQNC")
_MANY_ARGUMENTS = frozenset(("max", "min", "gcd", "lcm", "mod", "binom"))


class NoParse(Exception):  # noqa: N818 - not an error of ours: the answer is not in the language
    """The tokens are no expression of the language, or out of its bounds."""


class Parser:
    """One pass over the tokens of one answer."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.nesting = 0
        self.bars = 0
        self.no_bar = False
        self.no_ratio = False
        self.money = ""

    # --- the token under the cursor

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

    # --- lists and relations

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

    def ratio(self) -> Node:
        first = self.set_expression()
        if self.no_ratio or self.peek().kind != ":" and not self.is_to():
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

    # --- arithmetic

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
        if token.kind not in _STARTS or token.kind == "$" or self.is_unit_at(0) or self.is_unit_fraction():
            return False
        if token.kind == "word" and token.spaced and (before.kind is Kind.WORD or before.kind is Kind.NAME and len(token.value) > 2):
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

    # --- primaries

    def primary(self) -> Node:
        self.nest()
        token = self.take()
        handler = _PRIMARIES.get(token.kind)
        if handler is None:
            raise NoParse(token.kind)
        node = handler(self, token)
        self.nesting -= 1
        return node

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
        if token.value in ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac", "\\nicefrac", "\\sfrac"):
            start = self.at
            self.at += 1
            above, below = self.argument(), self.argument()
            if above.kind is Kind.NUMBER and below.kind is Kind.NUMBER and above.text.isdigit() and below.text.isdigit() and self.peek().kind not in ("^", "_"):
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

    def name(self, token: Token) -> Node:
        text = self.subscripted(token.value)
        while self.accept("'"):
            text += "'"
        following = self.peek()
        if following.kind == "number" and not following.spaced and text not in ("i", "e") and text not in GREEK and "_" not in text and following.value.isdigit() and text.isalpha():
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

    def arguments(self, closing: str) -> tuple[Node, ...]:
        bars, self.bars = self.bars, 0
        items = [self.sum()]
        while self.accept(",") or self.accept(";"):
            items.append(self.sum())
            if len(items) > 8:
                raise NoParse("arguments")
        self.expect(closing)
        self.bars = bars
        return tuple(items)

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
                self.tokens = [*self.tokens[: self.at], Token("number", token.value[1:], False), *self.tokens[self.at + 1 :]]
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
            self.tokens = [*self.tokens[: self.at], _rest(token.value[:-1]), _rest(token.value[-1]), *self.tokens[self.at + 1 :]]
            self.at += 1
            return Node(Kind.WORD if len(token.value) > 2 else Kind.NAME, token.value[:-1])
        if len(token.value) > 4 or not token.value.isalpha():
            raise NoParse("word")
        return Node(Kind.WORD, token.value)

    def dollar(self, token: Token) -> Node:
        self.money = _MONEY[token.kind]
        return self.signed_factor()

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
        return Node(Kind.DETERMINANT, "", (node,)) if node.kind is Kind.MATRIX else Node(Kind.CALL, "abs", (node,))

    def rounded(self, token: Token) -> Node:
        name, closing = ("floor", "rfloor") if token.kind == "lfloor" else ("ceil", "rceil")
        return Node(Kind.CALL, name, self.arguments(closing))

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
        if base is not None:
            node = Node(Kind.CALL, "logb", (*arguments, base))
        else:
            node = Node(Kind.CALL, name, arguments)
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

    # --- commands

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
                self.tokens = [*self.tokens[: self.at], Token("number", rest, False), *self.tokens[self.at + 1 :]]
            return plain_number(token.value[0])
        if token.kind in ("name", "upright"):
            self.at += 1
            return Node(Kind.NAME, token.value)
        if token.kind == "word" and token.value.isalpha():
            self.tokens = [*self.tokens[: self.at], Token("name", token.value[0], token.spaced), _rest(token.value[1:]), *self.tokens[self.at + 1 :]]
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
        while closing < len(self.tokens) and not (self.tokens[closing].kind == "word" and len(self.tokens[closing].value) == 2 and self.tokens[closing].value[0] == "d"):
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
        return Node(Kind.DETERMINANT, "", (matrix,)) if name == "vmatrix" else matrix

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

    def marked(self, token: Token) -> Node:
        inner = self.argument()
        if inner.kind not in (Kind.NAME, Kind.WORD):
            raise NoParse("mark")
        return Node(Kind.NAME, f"{token.value[1:]} {inner.text}")

    # --- units

    def is_unit_at(self, ahead: int) -> bool:
        """True if a unit stands there: upright or plain words of the closed list, after a value."""
        token = self.peek(ahead)
        if token.kind == "upright":
            return self.at + ahead > 0 and token.value in SHORT and token.value in UNITS
        if token.kind not in ("text", "word") or token.kind == "word" and token.value in UPRIGHT_ONLY:
            return False
        return (token.value in UNITS and (token.kind == "text" or len(token.value) > 1)) or token.value.lower() in POWER_WORDS or (token.value.lower() in UNITS and len(token.value) > 2)

    def is_unit_fraction(self) -> bool:
        """`\\frac{\\text{m}}{\\text{s}}` after a value."""
        if self.peek().value not in ("\\frac", "\\dfrac", "\\tfrac") or self.at == 0:
            return False
        return self.peek(1).kind == "{" and self.is_unit_at(2) and self.peek(3).kind == "}" and self.peek(4).kind == "{" and self.is_unit_at(5)

    def with_unit(self, node: Node) -> Node:
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


def _rest(letters: str) -> Token:
    return Token("name" if len(letters) == 1 else "word", letters, False)


def _product(factors: list[Node]) -> Node:
    if len(factors) == 2 and factors[1].kind is Kind.TUPLE and factors[0].kind is Kind.NAME and factors[0].text.isupper():
        if factors[0].text == "C" and len(factors[1].items) == 2 and all(item.text.isdigit() for item in factors[1].items):
            return Node(Kind.CALL, "binom", factors[1].items)
        return Node(Kind.RELATION, "=", tuple(factors))
    return factors[0] if len(factors) == 1 else Node(Kind.PRODUCT, "", tuple(factors))


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


_MONEY = {"$": "dollar", "euro": "euro", "pounds": "pound"}
_BASES = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc", "sinh": "arsinh", "cosh": "arcosh", "tanh": "artanh"}
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
_STRUCTURES = {
    **dict.fromkeys(("\\frac", "\\dfrac", "\\tfrac", "\\cfrac", "\\nicefrac", "\\sfrac"), Parser.fraction),
    **dict.fromkeys(("\\sqrt", "\\cbrt"), Parser.root),
    **dict.fromkeys(("\\binom", "\\dbinom", "\\tbinom"), Parser.binomial),
    **dict.fromkeys(("\\emptyset", "\\varnothing"), Parser.empty),
    **dict.fromkeys(("\\angle", "\\triangle", "\\overline", "\\bar", "\\overrightarrow", "\\measuredangle"), Parser.named),
    **dict.fromkeys(("\\sum", "\\prod"), Parser.series),
    **dict.fromkeys(MARKED, Parser.marked),
    "\\int": Parser.integral,
    "\\infty": Parser.infinity,
    "\\mathbb": Parser.blackboard,
    "\\begin": Parser.environment,
}
