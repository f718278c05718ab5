"""The rules of the paper's two graders: training (`deepscaler_math`) and evaluation (`qwen25_math`).

Owns their extraction, their spelling rules and their order of comparisons, quirks included: the first refuses fractions that are not reduced and
boxes with a space, the second accepts a relative error of 1e-4 and a factor of 100 either way. Called through `verifier.graders`.
"""

import math
import re

from rlvr.config import Extract
from verifier import answers, compare, exact
from verifier.compare import CORRECT, WRONG, Decision
from verifier.extract import TAIL_CHARACTERS
from verifier.nodes import Kind, Node
from verifier.readings import rough

RELATIVE_TOLERANCE = 1e-4
MAX_TEXT = 1000
_BRACE = re.compile(r"[{}]")


def _last_braced(text: str, command: str) -> tuple[str | None, bool]:
    """Content of the last `command{...}`; the flag says whether the command occurs at all."""
    start = text.rfind(command)
    if start < 0:
        return None, False
    depth = 0
    opening = start + len(command)
    if text[opening : opening + 1] != "{":
        return None, True
    for brace in _BRACE.finditer(text, opening):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[opening + 1 : brace.start()], True
    return None, True


def _parsed(text: str) -> Node:
    """The tree, or the words as they stand: the presets compare strings before trees."""
    return answers.parse(text) or Node(Kind.TEXT, text[:MAX_TEXT])


def _gold(text: str) -> Node:
    if not text.strip():
        raise ValueError("the gold answer is empty")
    return _parsed(text)


# --- training: deepscaler_math

_RIGHT_UNITS = re.compile(r"\\text\{ .*", re.DOTALL)
_WRAPPED_TEXT = re.compile(r"\\text\{(.+?)\}")
_SHORT_NAME = re.compile(r"\s*\S{1,2}\s*=([^=]+)\Z", re.DOTALL)
_BARE_ROOT = re.compile(r"\\sqrt\s*([^\s{\[\\])")
_BARE_FRACTION = re.compile(r"\\frac\s*([0-9a-zA-Z])\s*(?:\{([^{}]*)\}|([0-9a-zA-Z]))")
_SLASHED = re.compile(r"(-?[0-9]+)/(-?[0-9]+)\Z")
_FRACTION = re.compile(r"-?\\frac\{-?[0-9]+\}\{-?[0-9]+\}\Z|-?[0-9]+/-?[0-9]+\Z|\(?-?[0-9]+\)?/\(?-?[0-9]+\)?\Z")
_INTEGER = re.compile(r"-?[0-9]+(?:\.0*)?\Z")
_UNIT_WORDS = re.compile(r"(?:degree|cm|centimeter|meter|mile|second|minute|hour|day|week|month|year|foot|feet|inch|yard)(?:es)?s?(?: *\^[0-9]+)?")
_REFUSED = ("^{", "^(")
_LONG_EXPONENT = re.compile(r"\^[0-9]+\^|\^[0-9]{2,}")


def deepscaler_extract(text: str, rule: Extract) -> str | None:
    r"""The last `\boxed{…}`, without a space; nothing else is looked at."""
    content, _ = _last_braced(text[-TAIL_CHARACTERS:], "\\boxed")
    return content.strip() or None if content is not None else None


def deepscaler_parse(answer: str) -> Node | None:
    return _parsed(_loose(answer))


def deepscaler_gold(gold: str) -> Node:
    return _gold(_loose(gold))


def deepscaler_settle(answer: Node, gold: Node, *, answer_text: str = "", gold_text: str = "") -> Decision | None:
    """Strings in two normal forms; then element by element: fractions as strings, integers as integers, the rest by value."""
    if _tight(answer_text) == _tight(gold_text):
        return CORRECT
    if max(len(answer_text), len(gold_text)) > MAX_TEXT:
        return WRONG
    mine, theirs = _loose(answer_text), _loose(gold_text)
    if mine == theirs and mine:
        return CORRECT
    if not mine or not theirs:
        return WRONG
    parts, their_parts = _elements(mine), _elements(theirs)
    if len(parts) != len(their_parts) or (len(parts) > 1 and (mine[0], mine[-1]) != (theirs[0], theirs[-1])):
        return WRONG
    if not all(_may_be_equal(part, other) for part, other in zip(parts, their_parts, strict=True)):
        return WRONG
    scalars = not {answer.kind, gold.kind} & {
        Kind.TEXT,
        Kind.LIST,
        Kind.SET,
        Kind.RELATION,
        Kind.CHOICE,
        Kind.EITHER,
        Kind.UNIT,
        Kind.WORD,
        Kind.CLOCK,
    }
    return compare.settle(answer, gold) if scalars else WRONG


def _tight(text: str) -> str:
    """The first normal form: no spaces, no style, no right-hand unit, every fraction with its braces."""
    if len(text) > MAX_TEXT:
        return text
    text = text.replace("\n", "").replace("\\!", "").replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "")
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "").replace("\\%", "").replace("%", "")
    whole = _WRAPPED_TEXT.fullmatch(text.strip())
    text = whole.group(1) if whole is not None else _RIGHT_UNITS.sub("", text)
    text = text.strip()
    named = _SHORT_NAME.match(text)
    if named is not None:
        text = named.group(1)
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text).replace(" ", "")
    text = _BARE_FRACTION.sub(lambda found: f"\\frac{{{found.group(1)}}}{{{found.group(2) or found.group(3)}}}", text)
    if text.startswith("."):
        text = "0" + text
    if text == "0.5":
        text = "\\frac{1}{2}"
    return _SLASHED.sub(r"\\frac{\1}{\2}", text)


def _loose(text: str) -> str:
    """The second normal form: no dollar, no percent, no unit words, integers without their zeros, lower case."""
    text = text.strip()
    if len(text) > MAX_TEXT:
        return text
    whole = _WRAPPED_TEXT.fullmatch(text)
    if whole is not None:
        text = whole.group(1)
    text = _RIGHT_UNITS.sub("", text)
    for dropped in ("\\%", "%", "\\$", "$", "\\!", "\\,", "\\left", "\\right"):
        text = text.replace(dropped, "")
    text = text.replace(" or ", " , ").replace(" and ", " , ").replace("tfrac", "frac").replace("dfrac", "frac")
    text = re.sub(r"\^ *\\circ|\^ *\{\\circ\}", "", _UNIT_WORDS.sub("", text)) if "\\text" not in text else text
    text = text.strip()
    named = _SHORT_NAME.match(text)
    if named is not None:
        text = named.group(1).strip()
    while text.startswith("{") and text.endswith("}") and len(text) > 2:
        text = text[1:-1].strip()
    text = _BARE_FRACTION.sub(lambda found: f"\\frac{{{found.group(1)}}}{{{found.group(2) or found.group(3)}}}", text)
    grouped = re.fullmatch(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", text)
    if grouped is not None:
        text = text.replace(",", "")
    if _INTEGER.match(text) is not None:
        text = text.partition(".")[0]
    return text.lower() if "\\" not in text else text


def _elements(text: str) -> list[str]:
    """The elements of a tuple or interval; anything else is one element."""
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and "," in text and not set(text[1:-1]) & set("()[]"):
        return [part.strip() for part in text[1:-1].split(",")]
    return [text]


def _may_be_equal(answer: str, gold: str) -> bool:
    """What the rules refuse before any algebra."""
    if answer == gold:
        return True
    if _FRACTION.match(answer) is not None and _FRACTION.match(gold) is not None:
        return _tight(answer) == _tight(gold)
    if (_INTEGER.match(gold) is not None) != (_INTEGER.match(answer) is not None) and _INTEGER.match(gold) is not None:
        return False
    letters = set(re.findall(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+|sqrt|frac", "", answer)))
    return (
        len(letters) <= 2
        and not any(sign in answer for sign in _REFUSED)
        and _LONG_EXPONENT.search(answer) is None
        and "," not in answer
        and "~" not in answer
    )


# --- evaluation: qwen25_math

_QWEN_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]+")
_QWEN_TAIL_TEXT = re.compile(r"\\(?:text|mbox|textrm)\{[^{}]*\}")
_QWEN_WORDS = re.compile(
    r"(?<![A-Za-z\\])(?:degrees?|cm|centimeters?|meters?|miles?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|foot|feet|inch|inches|yards?|units?|square|cubic|"
    r"dollars?|cents?|percent|mph|kmph|km|kg|grams?|liters?|ml|pounds?|sq|points?|people|men|women|students?)(?![A-Za-z])"
)


def qwen_extract(text: str, rule: Extract) -> str | None:
    r"""The last box (an unclosed one to the end of the text), else what follows "he answer is", "final answer is", else the last number."""
    text = text[-TAIL_CHARACTERS:]
    if "boxed" in text:
        content, _ = _last_braced(text, "boxed")
        if content is None:
            rest = text[text.rfind("boxed") + len("boxed") :]
            content = rest[1:] if rest.startswith("{") else rest.partition("$")[0]
        return content.strip() or None
    for phrase in ("he answer is", "final answer is"):
        if phrase in text:
            return text[text.rfind(phrase) + len(phrase) :].partition("\n")[0].strip().rstrip(".").strip() or None
    numbers = _QWEN_NUMBER.findall(text[-4096:].replace(",", ""))
    return numbers[-1] if numbers else None


def qwen_parse(answer: str) -> Node | None:
    return _parsed(_spelled(answer))


def qwen_gold(gold: str) -> Node:
    return _gold(_spelled(gold))


def qwen_settle(answer: Node, gold: Node, *, answer_text: str = "", gold_text: str = "") -> Decision | None:
    """Folded strings, numbers within the tolerance (times 100 and by 100 too), then trees element by element."""
    mine, theirs = _spelled(answer_text), _spelled(gold_text)
    if mine.lower() == theirs.lower() and mine:
        return CORRECT
    if max(len(mine), len(theirs)) > MAX_TEXT:
        return WRONG
    one, two = _digits(mine), _digits(theirs)
    if one is not None and two is not None:
        return CORRECT if any(_is_close(one, two * factor) for factor in (0.01, 1.0, 100.0)) else WRONG
    if mine and _bare(mine) == _bare(theirs):
        return CORRECT
    if Kind.TEXT in (answer.kind, gold.kind):
        return WRONG
    if answer.kind is gold.kind and answer.kind in (Kind.TUPLE, Kind.INTERVAL, Kind.MATRIX) and len(answer.items) == len(gold.items):
        pairs = list(zip(answer.items, gold.items, strict=True))
        if all(_close_trees(part, other) for part, other in pairs):
            return CORRECT
    if _close_trees(answer, gold):
        return CORRECT
    return compare.settle(answer, gold)


def _spelled(text: str) -> str:
    text = text.strip().replace("\n", " ").rstrip(".").rstrip("/")
    if len(text) > MAX_TEXT:
        return text
    for dropped in ("\\!", "\\left", "\\right", "^{\\circ}", "^\\circ", "\\$", "$", "\\(", "\\)"):
        text = text.replace(dropped, "")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    without = _QWEN_TAIL_TEXT.sub("", text).strip()
    text = without or text
    shorter = _QWEN_WORDS.sub("", text).strip()
    text = (shorter or text).replace("\\%", "%")
    named = _SHORT_NAME.match(text)
    if named is not None:
        text = named.group(1)
    while text.startswith("{") and text.endswith("}") and len(text) > 2 and "}" not in text[1:-1]:
        text = text[1:-1]
    return text.strip()


def _digits(text: str) -> float | None:
    plain = text.replace(",", "")
    percent = plain.endswith("%")
    if re.fullmatch(r"[-+]?(?:[0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})%?", plain) is None:
        return None
    return float(plain.rstrip("%")) / (100 if percent else 1)


def _bare(text: str) -> str:
    return re.sub(r"[{}()\[\]\s]", "", text).lower()


def _is_close(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=RELATIVE_TOLERANCE)


def _close_trees(answer: Node, gold: Node) -> bool:
    try:
        one, two = rough(answer), rough(gold)
    except exact.OutOfBoundsError:
        return False
    return one is not None and two is not None and _is_close(one, two)
