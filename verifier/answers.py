"""From the text of an answer to its tree: what stands around an expression, and what is no expression.

Owns `parse` (a model's answer; None = no answer) and `parse_gold` (a label; a clear sentence where it is unusable). Choices, clocks, words,
separators of thousands and decimal commas are read here; the rest is `verifier.grammar`. Called by verifier, rewards and the child's tests.
"""

import re

from verifier import exact
from verifier.bounds import is_bounded, is_sound
from verifier.cursor import NoParse, plain_number
from verifier.grammar import ELLIPSIS, Parser
from verifier.nodes import Kind, Node
from verifier.normalise import normalise
from verifier.tokens import Token, tokenize

_SIMPLE = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]+)?)\.?\Z", re.ASCII)
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("{", "}"), ("**", "**"), ('"', '"'), ("`", "`"))
_CHOICE = re.compile(
    r"(?:option|choice|answer|ans)?[\s:.]*"
    r"(?:\(([A-Za-z])\)(?![\s*+\-/^=,(]*[=^(]|\s*[,;/&|*'])(?!\s*is\s).*|([A-Ja-j])[).:](?![0-9])(?:\s.*)?)\Z",
    re.DOTALL | re.IGNORECASE,
)
_SECOND_CHOICE = re.compile(r" or | and |\([A-J]\)|\s[A-J][).]\s")
_LABEL = re.compile(
    r"(?:\\(?:text|textbf|mathrm|mbox)\s*\{\s*(?:(?:the\s+)?(?:final\s+)?answer(?:\s+is)?|ans)\s*:?\s*\}\s*:?"
    r"|(?:final\s+)?answer\s*:)(?!\s*=)",
    re.IGNORECASE,
)
_OPTION = re.compile(r"(?:option|choice|answer)\s*[:.]?\s*\(?([A-Za-z])\)?\s*\Z", re.IGNORECASE)
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*(?:([ap])\.?\s*m\.?)?\Z|([0-9]{1,2})\s*([ap])\.?\s*m\.?\Z", re.IGNORECASE)
_BLANK = re.compile(r"[\s.?!,;:_\-{}()\[\]$*\\]*\Z")
_PLAIN_DROPS = re.compile(
    r"\\(?:text[a-z]*|mbox|mathrm|operatorname|math[a-z]+|boldsymbol|left|right|displaystyle|quad|qquad|bf|rm|it|emph)(?![A-Za-z])"
    r"|\\[,;:! ()\[\]]|[{}$~\"`*]"
)
_ARTICLES = re.compile(r"\b(?:a|an|the)\s+(?=\w)")
_SPACES = re.compile(r"\s+")
_ALL_REALS = frozenset(
    (
        "all real numbers",
        "all reals",
        "real numbers",
        "all real",
        "all real values",
        "all real number",
        "reals",
        "all x",
        "all real x",
        "every real number",
        "any real number",
    )
)
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3}){1,20}\Z")
_DECIMAL_GOLD = re.compile(r"[+-]?(?:0,[0-9]{3,}|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+)\Z")
_DECIMAL_COMMA = re.compile(r"([+-]?)([0-9]{1,3}(?:\.[0-9]{3})+|[0-9]+),([0-9]+)\Z")

_LITERALS = frozenset((Kind.NUMBER, Kind.REPEATING, Kind.MIXED, Kind.BASED))
_DECORATED = (Kind.UNIT, Kind.PERCENT, Kind.DEGREE)


def parse(answer: str) -> Node | None:
    """The tree of a model's answer, or None: no answer (empty, unreadable, out of bounds). Never raises."""
    simple = _SIMPLE.match(answer)
    if simple is not None and len(answer) < exact.MAX_DIGITS:
        plain = plain_number(simple.group(2))
        return Node(Kind.NEGATIVE, "", (plain,)) if simple.group(1) == "-" else plain
    try:
        node = _parse(answer)
    except (NoParse, exact.OutOfBoundsError, RecursionError):
        return None
    return node if node is not None and is_bounded(node) else None


def parse_gold(gold: str) -> Node:
    """The tree of a label. Raises ValueError with one sentence where it cannot be read, or has no value."""
    node = parse(gold)
    if node is None:
        raise ValueError(f"the gold answer ({len(gold)} characters) is not in the language of answers or out of its bounds")
    if node.kind is Kind.EITHER and not _DECIMAL_GOLD.match(gold.strip().strip("$")):
        node = node.items[0]
    if isinstance(exact.value(node), exact.Undefined):
        raise ValueError("the gold answer has no value (a division by zero or its like)")
    return node


def literal_value(answer: str) -> bool:
    """True if the text is one number or fraction; a sign, a unit, a percent or degree sign do not count."""
    node = parse(answer)
    if node is None:
        return False
    node = _unsigned(node.items[0] if node.kind in _DECORATED or node.kind is Kind.EITHER else node)
    if node.kind is Kind.QUOTIENT:
        return all(_unsigned(item).kind is Kind.NUMBER for item in node.items)
    return node.kind in _LITERALS


def _unsigned(node: Node) -> Node:
    return node.items[0] if node.kind is Kind.NEGATIVE else node


def strip(text: str) -> str:
    """Without what wraps an answer: dollars, math brackets, braces, a final point."""
    for _ in range(8):
        before = text
        text = text.strip()
        while text.endswith((".", ",", ";", "\\,", "\\;", "\\ ", "\\!")) and not text.endswith("..") and not text.lower().endswith(("p.m.", "a.m.")):
            text = text[:-1].rstrip("\\").rstrip() if text[-2:-1] == "\\" else text[:-1].rstrip()
        if text.endswith("\\") and not text.endswith("\\\\"):
            text = text[:-1].rstrip()
        if text.startswith("=") and not text.startswith("=="):
            text = text[1:].lstrip()
        for opening, closing in _WRAPPERS:
            if len(text) > len(opening) + len(closing) - 1 and text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : -len(closing)]
                if _is_one_group(inner, opening, closing):
                    text = inner.strip()
        if text == before:
            break
    return text


def _is_one_group(inner: str, opening: str, closing: str) -> bool:
    if opening == closing:
        return closing not in inner and not inner.endswith("\\")
    depth = 0
    at = 0
    while at < len(inner):
        if inner.startswith(closing, at) and (opening != "{" or inner[at - 1 : at] != "\\"):
            depth -= 1
            if depth < 0:
                return False
        elif inner.startswith(opening, at) and (opening != "{" or inner[at - 1 : at] != "\\"):
            depth += 1
        at += 1
    return depth == 0 and not (opening == "{" and inner.endswith("\\"))


def fold(text: str) -> str:
    """Words as they are compared: no style, no case, no article, single spaces."""
    plain = _SPACES.sub(" ", _PLAIN_DROPS.sub(" ", text)).strip().lower()
    plain = plain.strip(" .,;:!'\"")
    return _SPACES.sub(" ", _ARTICLES.sub("", plain))


def _parse(answer: str) -> Node | None:
    text = normalise(answer)
    if text is None:
        return None
    text = strip(text)
    if _BLANK.match(text) is not None and not text.startswith("\\{"):
        return None
    special = _special(text)
    if special is not None:
        return special
    if _GROUPED.match(text) is not None:
        parts = text.split(",")
        return Node(Kind.EITHER, "", (plain_number("".join(parts)), Node(Kind.LIST, ",", tuple(plain_number(part) for part in parts))))
    text = strip(_LABEL.sub("", text, count=1)) if _LABEL.match(text) is not None else text
    comma = _decimal_comma(text)
    tokens = tokenize(text)
    if tokens is None:
        return None
    while len(tokens) > 1 and not text.endswith("..") and tokens[-1].value in (".", ",", ";", "!") and tokens[-1].kind in ("text", ",", ";"):
        tokens.pop()
    if not tokens:
        return None
    try:
        node = Parser(_join_thousands(tokens)).whole()
        node = _without_quantifier(node)
        if not is_sound(node) or node == ELLIPSIS:
            raise NoParse("sorts")
    except NoParse:
        node = _words(text, tokens)
    if comma is not None:
        return Node(Kind.EITHER, "", (node, comma)) if node.kind is Kind.LIST else comma
    return node


def _without_quantifier(node: Node) -> Node:
    """`..., k \\in \\mathbb{Z}` at the end of a list says over what a name runs, and no more."""
    if node.kind is not Kind.LIST:
        return node
    last = node.items[-1]
    if last.kind is not Kind.RELATION or last.text != "in" or last.items[0].kind is not Kind.NAME or last.items[1].kind is not Kind.NUMBERS:
        return node
    return node.items[0] if len(node.items) == 2 else Node(Kind.LIST, node.text, node.items[:-1])


def _special(text: str) -> Node | None:
    """Choices, clocks, and words that stand for a set."""
    if text.isdigit():
        return None
    plain = _SPACES.sub(" ", _PLAIN_DROPS.sub(" ", text)).strip()
    clock = _CLOCK.match(plain)
    if clock is not None:
        hour, minute, half = (clock.group(1), clock.group(2), clock.group(3)) if clock.group(1) else (clock.group(4), "00", clock.group(5))
        return Node(Kind.CLOCK, f"{int(hour)}:{minute}{' ' + half.lower() + 'm' if half else ''}")
    if len(plain) > 200:
        return None
    option = _OPTION.match(plain)
    if option is not None:
        return Node(Kind.CHOICE, option.group(1).upper())
    if plain[:1] in "(ABCDEFGHIJabcdefghijoO" and (choice := _CHOICE.match(plain)) is not None:
        letter = (choice.group(1) or choice.group(2)).upper()
        if len(plain) <= 3:
            return Node(Kind.NAME, letter if plain.strip("(). ").isupper() else letter.lower())
        return Node(Kind.CHOICE, letter) if _SECOND_CHOICE.search(plain, 3) is None else None
    if fold(text) in _ALL_REALS:
        return Node(Kind.NUMBERS, "R")
    return None


def _decimal_comma(text: str) -> Node | None:
    """`0,65`, `4.321,5`, `1000,99`: a comma not followed by three digits, or after a lone zero, or after groups by points."""
    match = _DECIMAL_COMMA.match(text)
    if match is None:
        return None
    sign, whole, decimals = match.groups()
    if len(decimals) == 3 and whole != "0" and "." not in whole:
        return None
    plain = plain_number(whole.replace(".", "") + "." + decimals)
    return Node(Kind.NEGATIVE, "", (plain,)) if sign == "-" else plain


def _join_thousands(tokens: list[Token]) -> list[Token]:
    """`1,234,567` outside brackets and `51 204` are one number each."""
    joined: list[Token] = []
    depth = 0
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.kind in ("(", "[", "{{", "<<"):
            depth += 1
        elif token.kind in (")", "]", "}}", ">>"):
            depth -= 1
        if (
            token.kind == "number"
            and token.value.isdigit()
            and len(token.value) <= 3
            and token.value[0] != "0"
            and not (joined and joined[-1].kind in ("_", "^"))
        ):
            end = _end_of_groups(tokens, at, commas=depth == 0)
            if end > at + 1:
                joined.append(Token("number", "".join(each.value for each in tokens[at:end] if each.kind == "number"), token.spaced))
                at = end
                continue
        joined.append(token)
        at += 1
    return joined


def _end_of_groups(tokens: list[Token], start: int, *, commas: bool) -> int:
    """Where the groups of three digits end that follow `start`; `start + 1` if none does."""
    end = start + 1
    if commas:
        while (
            end + 1 < len(tokens)
            and tokens[end].kind == ","
            and not tokens[end].spaced
            and tokens[end + 1].kind == "number"
            and not tokens[end + 1].spaced
        ):
            whole, point, _ = tokens[end + 1].value.partition(".")
            if len(whole) != 3 or "e" in tokens[end + 1].value.lower():
                return start + 1
            end += 2
            if point:
                break
        if end > start + 1:
            return end
    while (
        end < len(tokens)
        and tokens[end].kind == "number"
        and tokens[end].spaced
        and len(tokens[end].value.partition(".")[0]) == 3
        and "e" not in tokens[end].value.lower()
    ):
        end += 1
    if end < len(tokens) and tokens[end].kind == "/":
        return start + 1
    return end


def _words(text: str, tokens: list[Token]) -> Node:
    """What is no expression is text, if words are in it and no mathematics hides among them."""
    if not any((token.kind in ("text", "word", "and", "or") and len(token.value) > 1) or token.kind == "upright" for token in tokens):
        raise NoParse("no words")
    folded = fold(text)
    if not folded or not any(letter.isalnum() for letter in folded):
        raise NoParse("blank")
    return Node(Kind.TEXT, folded)
