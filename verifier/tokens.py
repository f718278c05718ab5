"""Normalised LaTeX or plain text as a flat list of tokens.

Owns the cutting: one pass of one regular expression without nested repetition. What the words are stands in `verifier.vocabulary`. Called by the
grammar.
"""

import re
from typing import NamedTuple

from verifier.units import UNITS
from verifier.vocabulary import ALIASES, FUNCTIONS, GREEK, GREEK_WORDS, MARKED, OPERATORS, SPACES, STRUCTURES, STYLES, UPRIGHT, WRAPPED

MAX_TOKENS = 512

_COLOURS = re.compile(
    r"\\(?:text)?color\s*(?:\[[a-z]*\]\s*)?\{[A-Za-z0-9!,. ]{0,40}\}|\\hspace\*?\s*\{[^{}]{0,20}\}|\\(?:label|tag)\*?\s*\{[^{}]{0,40}\}"
)
_LEFT_EMPTY = re.compile(r"\\(?:left|right)\s*\.")
_UPRIGHT_DIGITS = re.compile(r"\\(?:text|textrm|mathrm|textbf|mathbf|mbox|texttt)\s*\{\s*([0-9A-Fa-f]+)\s*\}(?=\s*_)")
_BOLD_NUMBERS = re.compile(r"\\mathbf\s*\{?\s*([RZQN])\s*\}?(?![A-Za-z])")
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n~]+)
    |(?P<based>(?:\d{1,15}[A-F][0-9A-F]{0,15}|[A-F]{1,15}\d[0-9A-F]{0,15}|[A-F]{2,16})(?=[ ]?_[ ]?\{?[ ]?1[1-6][ ]?\}?(?!\d))
        |\d{1,15}[a-f][0-9a-f]{0,15}(?=[ ]?_[ ]?\{?[ ]?16[ ]?\}?(?!\d)))
    |(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![\w^{.]))?)
    |(?P<command>\\(?:[A-Za-z]+|.|\n))
    |(?P<letters>[A-Za-z]+)
    |(?P<operator>\*\*|<=|>=|!=|=<|=>|==|:=|\+/-|\+-|-\+|[-+*/^_=<>(){}\[\]|,;:!&'%$])
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


class Token(NamedTuple):
    kind: str
    """number, name, word, text, function, structure, or the operator itself."""
    value: str
    spaced: bool
    """True if space stands before it."""


END = Token("end", "", False)


def tokenize(text: str) -> list[Token] | None:
    """Tokens of a normalised answer; None when there are too many or a sign has no meaning here."""
    if "\\" in text:
        text = _LEFT_EMPTY.sub(" ", text)
        text = _BOLD_NUMBERS.sub(r"\\mathbb{\1}", text)
        text = _UPRIGHT_DIGITS.sub(r"\1", text)
        if "color" in text or "space" in text or "label" in text or "\\tag" in text:
            text = _COLOURS.sub(" ", text)
    tokens: list[Token] = []
    spaced = False
    position, size = 0, len(text)
    has_marks = text.replace("\\$", "").count("$") > 1  # dollars that open and close math, not money
    while position < size:
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        start, position = position, match.end()
        group, value = match.lastgroup, match.group()
        if group == "space":
            spaced = True
            continue
        if group == "command":
            if value in SPACES or value in STYLES:
                spaced = spaced or value not in ("\\!", "\\left", "\\right")
                continue
            if value in UPRIGHT:
                content, position = _braced(text, position)
                if content is None or not _add_upright(tokens, content, spaced, 0):
                    return None
                spaced = False
                continue
            token = _command(value, spaced)
            if token is None:
                if value not in WRAPPED:
                    return None
                if value in MARKED:
                    tokens.append(Token("structure", value, spaced))
                continue
        elif group in ("number", "based"):
            if "e" in value and _is_in_expression(text, start, position):
                value = value.partition("e")[0]
                position = start + len(value)
            token = Token("number", value, spaced)
        elif group == "letters":
            is_unit = value == "min" and text[position:].lstrip()[:1] not in ("(", "{", "_")
            token = Token("word", value, spaced) if is_unit else _letters(value, spaced)
        elif group == "operator":
            token = Token(OPERATORS.get(value, value), value, spaced)
        else:
            if value not in '"?.`@#' and not value.isalpha():
                return None
            token = Token("text", value, spaced)
        if value == "$" and (has_marks or start == size - 1):
            spaced = True
            continue
        tokens.append(token)
        spaced = False
        if len(tokens) > MAX_TOKENS:
            return None
    return tokens


def _is_in_expression(text: str, start: int, end: int) -> bool:
    """True where `2e-1` is a term with Euler's number: signed, no point before it, and other mathematics beside it. Alone it is e-notation."""
    if "." in text[start:end] or not {"+", "-"} & set(text[start:end]):
        return False
    before, after = text[:start].rstrip(" "), text[end:].lstrip(" ")
    if before.endswith(("{", "+", "*", "/")) or (before.endswith("-") and before[:-1].rstrip(" $(=,;")):
        return True
    return after.startswith(("}", "+", "-", "*", "/")) or (after.startswith(")") and "," not in text)


def _command(value: str, spaced: bool) -> Token | None:
    operator = OPERATORS.get(value)
    if operator is not None:
        return Token(operator, value, spaced)
    if value in GREEK:
        return Token("name", ALIASES.get(value, value), spaced)
    function = FUNCTIONS.get(value[1:])
    if value in STRUCTURES or function in ("sqrt", "cbrt", "binom"):
        return Token("structure", value, spaced)
    if function is not None:
        return Token("function", function, spaced)
    return None


def _letters(value: str, spaced: bool) -> Token:
    if len(value) == 1:
        return Token("name", value, spaced)
    if value in GREEK_WORDS:
        return Token("name", "\\" + value, spaced)
    if value in ("infinity", "inf", "Infinity", "oo"):
        return Token("structure", "\\infty", spaced)
    function = FUNCTIONS.get(value)
    if function in ("sqrt", "cbrt"):
        return Token("structure", "\\" + function, spaced)
    if (function is not None and value not in ("deg", "arg", "mod", "sign", "max", "min")) or value in ("max", "min", "mod"):
        return Token("function", function or value, spaced)
    if value in ("and", "or"):
        return Token(value, value, spaced)
    return Token("word", value, spaced)


def _braced(text: str, position: int) -> tuple[str | None, int]:
    """What stands between the next balanced braces, and where they end."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    if position >= len(text):
        return None, position
    if text[position] != "{":
        return text[position], position + 1
    depth = 0
    for end in range(position, len(text)):
        if text[end] == "{":
            depth += 1
        elif text[end] == "}":
            depth -= 1
            if depth == 0:
                return text[position + 1 : end], end + 1
    return None, position


_PLAIN_NUMBER = re.compile(r"[0-9\s.,:+\-*/=()$%]*\Z")
_PIECE = re.compile(r"\s*([A-Za-z][A-Za-z'.\-]*|[0-9]+(?:\.[0-9]+)?|[^\sA-Za-z0-9])(\s*)")


def _add_upright(tokens: list[Token], content: str, spaced: bool, depth: int) -> bool:
    """Append what an upright command holds: numbers and signs as math, connectives and words as they are."""
    content = content.replace("~", " ").replace("\\ ", " ").replace("\\,", " ").replace("$", " ")
    spaced = spaced or content[:1].isspace()
    if "\\" in content or "{" in content or _PLAIN_NUMBER.match(content) is not None:
        inner = tokenize(content) if depth < 4 and len(content) < MAX_CHARACTERS_UPRIGHT else None
        if inner is None:
            return False
        tokens.extend(token._replace(kind="upright") if token.kind == "name" and len(token.value) == 1 else token for token in inner)
        return len(tokens) <= MAX_TOKENS
    for match in _PIECE.finditer(content):
        value = match.group(1)
        word = value.rstrip(".") if value[0].isalpha() and value.lower() not in ("p.m.", "a.m.") else value
        lower = word.lower()
        if lower in ("and", "or"):
            tokens.append(Token(lower, lower, True))
        elif FUNCTIONS.get(word) and word not in UNITS:
            function = FUNCTIONS[word]
            tokens.append(
                Token("structure", "\\" + function, spaced) if function in ("sqrt", "cbrt", "binom") else Token("function", function, spaced)
            )
        elif len(word) == 1 and word.isalpha():
            tokens.append(Token("upright", word, spaced))
        elif value[0].isdigit():
            tokens.append(Token("number", value, spaced))
        elif value in ",;:()!-+=/*%^":
            tokens.append(Token(value, value, spaced))
        else:
            tokens.append(Token("text", word, spaced))
        spaced = bool(match.group(2))
        if len(tokens) > MAX_TOKENS:
            return False
    return True


MAX_CHARACTERS_UPRIGHT = 512
