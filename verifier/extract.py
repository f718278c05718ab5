"""The final answer of a completion: the last box, else (rule "all") an answer phrase, else the last mathematics.

Owns the order of these rules. Looks at the tail only, never at the gold; linear scanners, no nested repetition. Called by the verifier and the
rewards.
"""

import re

from rlvr.config import Extract
from verifier.units import POWER_WORDS, UNITS
from verifier.vocabulary import FUNCTIONS

TAIL_CHARACTERS = 65_536
MAX_JOINED = 16
SHORT_CHARACTERS = 24
SEARCHED_CHARACTERS = 4096
MAX_ANSWER = 8192
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ONE_TOKEN = re.compile(r"\s*(\\[A-Za-z]+|\\.|[^\s{}$\\])", re.DOTALL)
_MARKERS = re.compile(r"<\|im_end\|>|<\|endoftext\|>|</s>|<\|im_start\|>")
_PHRASE = re.compile(
    r"(?:final|correct)?\s*answer\**\s*(?:is|:)\**|####|<answer>|^[#\s*]*final\s+answer[\s*:]*$|\\textbf\{(?:final\s+)?answer:?\}:?",
    re.IGNORECASE | re.MULTILINE,
)
_GAP = re.compile(r"(?:\s|\\[()\[\],;: ]|\$|[,;]|and(?![a-z])|or(?![a-z])|\\q?quad|\\text\s*\{[\s,;]*(?:and|or|,|;)?[\s,;]*\})*\Z")
_JOINT = re.compile(r"[,;]|and|or|\\q?quad")
_SPAN = re.compile(r"\$\$|\$|\\\(|\\\)|\\\[|\\\]|\\.", re.DOTALL)
_NUMBER = re.compile(r"[-+\u2212]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:[.,][0-9]+)?|\.[0-9]+)(?:\s?/\s?[0-9]+)?\s?(?:%|percent)?")
_HOPE = re.compile(r"\.?\s*I hope (?:it|this) is correct.*\Z", re.IGNORECASE | re.DOTALL)
_WORDS = re.compile(r"[A-Za-z]{2,}")
_BLANK = re.compile(r"[\s.?!,;:$*#{}()\[\]\\\-_\"']*\Z")
_EMPTY_SET = re.compile(r"\\\{\s*\\\}")
_STARS = re.compile(r"\*\*(?=[\s.,;:]|\Z)")
_LEADS = re.compile(r"(?:(?:therefore|thus|hence|then|so|simply|just|exactly|indeed|clearly|given by|equal to)[\s,:]+)+", re.IGNORECASE)
_BLANKS = re.compile(r"\s+")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_EXPRESSED = frozenset(FUNCTIONS) | frozenset(POWER_WORDS) | frozenset(["and", "or", "pi", "inf", "infinity", "per", "am", "pm", "to"])
_CLOSERS = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}


def extract(text: str, rule: Extract) -> str | None:
    """The text of the final answer, or None. `last_boxed` looks for boxes alone, `all` for phrases and last mathematics too."""
    tail = text[-TAIL_CHARACTERS:]
    opened, closed = tail.rfind("<think>"), tail.rfind("</think>")
    if opened > closed:
        return None
    if closed >= 0:
        tail = tail[closed + len("</think>") :]
    boxes = _last_boxes(tail)
    if boxes is not None:
        return _or_none(boxes)
    if rule == "last_boxed":
        return None
    if len(text) > TAIL_CHARACTERS and _closes_more(tail):
        return None
    return _or_none(_unboxed(tail))


def _or_none(answer: str | None) -> str | None:
    """Rule 8: nothing but punctuation is no answer."""
    if answer is None or (_BLANK.match(answer) is not None and _EMPTY_SET.search(answer) is None) or len(answer) > MAX_ANSWER:
        return None
    return answer.strip()


# --- boxes


def _last_boxes(text: str) -> str | None:
    """The last box with those that are joined to it; "" where the last one is cut; None without a box."""
    starts = [match.start() for match in _tail_boxes(text)]
    if not starts:
        return None
    content, start, end = _box_at(text, starts[-1])
    if content is None:
        return ""
    first = len(starts) - 1
    for at in range(len(starts) - 2, -1, -1):
        outer, outer_start, outer_end = _box_at(text, starts[at])
        if outer is not None and outer_end >= end and outer_start < start:
            content, start, end, first = outer, outer_start, outer_end, at
    found = [content]
    before = start
    for at in range(first - 1, -1, -1):
        other, other_start, other_end = _box_at(text, starts[at])
        if other is None or other_end > before:
            continue
        gap = text[other_end:before]
        if len(gap) > 200 or _GAP.match(gap) is None or _JOINT.search(gap) is None or len(found) >= MAX_JOINED:
            break
        found.append(other)
        before = other_start
    return ", ".join(reversed(found))


def _tail_boxes(text: str) -> list["re.Match[str]"]:
    """The last few box commands, found from the end."""
    found: list[re.Match[str]] = []
    end = len(text)
    while len(found) < MAX_JOINED + 4:
        at = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        if at < 0:
            break
        match = _BOX.match(text, at)
        if match is not None and not _is_escaped(text, at):
            found.append(match)
        end = at
    return found[::-1]


def _is_escaped(text: str, at: int) -> bool:
    return at > 0 and text[at - 1] == "\\" and not (at > 1 and text[at - 2] == "\\")


def _box_at(text: str, start: int) -> tuple[str | None, int, int]:
    """Content (None if the braces do not balance), start and end of the box that opens at `start`."""
    match = _BOX.match(text, start)
    assert match is not None
    at = match.end()
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    if at >= len(text) or text[at] != "{":
        token = _ONE_TOKEN.match(text, match.end())
        return (None, start, at) if token is None else (token.group(1), start, token.end())
    depth = 0
    for brace in _BRACE.finditer(text, at):
        sign = brace.group()
        if sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth == 0:
                return text[at + 1 : brace.start()], start, brace.end()
    return None, start, len(text)


# --- without a box


def _closes_more(text: str) -> bool:
    """True if the tail starts inside a group: what it closes was opened before it."""
    plain = text.replace("\\{", "").replace("\\}", "")
    return plain.count("}") > plain.count("{")


def _unboxed(text: str) -> str | None:
    tail = _BLANKS.sub(lambda run: "\n" if "\n" in run.group() else " ", text[-SEARCHED_CHARACTERS:])
    phrases = list(_PHRASE.finditer(tail))
    if not phrases:
        return _free(_cut(tail, 0))
    phrase = phrases[-1]
    rest = _cut(tail, phrase.end())[phrase.end() :].lstrip(" \t\r\n*:")
    leads = _LEADS.match(rest)
    rest = rest[leads.end() :] if leads is not None else rest
    span = _span_at_once(rest)
    if span is not None:
        return span
    line = _HOPE.sub("", rest.partition("\n")[0].partition("</answer>")[0]).strip().rstrip("*").strip()
    line = _STARS.sub("", line[:-1] if line.endswith(".") else line)
    return _free(line) if _is_sentence(line) else line


def _cut(text: str, start: int) -> str:
    marker = _MARKERS.search(text, start)
    while marker is not None and not text[: marker.start()].strip():
        marker = _MARKERS.search(text, marker.end())
    return text if marker is None else text[: marker.start()]


def _is_sentence(line: str) -> bool:
    if len(line) <= SHORT_CHARACTERS:
        return False
    outside = "".join(part for part, is_math in _parts(line) if not is_math)
    return len(_WORDS.findall(outside)) >= 3 or (any(is_math for _, is_math in _parts(line)) and bool(_WORDS.search(outside)))


def _span_at_once(rest: str) -> str | None:
    """The math span at the very start, if nothing but punctuation follows on its line."""
    if not rest.startswith(("$", "\\(", "\\[")):
        return None
    opening = "$$" if rest.startswith("$$") else rest[:1] if rest[0] == "$" else rest[:2]
    end = rest.find(_CLOSERS[opening], len(opening))
    if end < 0:
        return None
    following = rest[end + len(_CLOSERS[opening]) :].partition("\n")[0]
    if _JOINT.match(following.strip()) is not None and _WORDS.sub("", following).strip(" .*") and "$" in following:
        return None
    return rest[len(opening) : end]


def _parts(text: str) -> list[tuple[str, bool]]:
    """The text cut into plain parts and math spans; what an unclosed mark opens is dropped, except behind a dollar sign that is money."""
    parts: list[tuple[str, bool]] = []
    at, opening, start = 0, "", 0
    for match in _SPAN.finditer(text):
        mark = match.group()
        if opening:
            if mark == _CLOSERS[opening]:
                parts.append((text[start : match.start()], True))
                opening, at = "", match.end()
        elif mark in _CLOSERS:
            parts.append((text[at : match.start()], False))
            opening, start = mark, match.end()
    if not opening:
        parts.append((text[at:], False))
    elif opening == "$" and text[start : start + 1].isdigit():
        parts.append((text[start:], False))
    return parts


def _free(text: str) -> str | None:
    """Rule 7: all of a short text, else the later of the last math span and the last number outside math."""
    whole = _HOPE.sub("", text).strip()
    parts = _parts(whole)
    if len(whole) <= SHORT_CHARACTERS and not _is_chat(whole, parts):
        return whole
    if sum(1 for part, is_math in parts if is_math) == 1 and all(is_math or _BLANK.match(part) for part, is_math in parts):
        return next(part for part, is_math in parts if is_math)
    for part, is_math in reversed(parts):
        if is_math:
            if _BLANK.match(part) is None:
                return part
            continue
        numbers = _NUMBER.findall(part)
        if numbers:
            return str(numbers[-1])
    return None


def _is_chat(text: str, parts: list[tuple[str, bool]]) -> bool:
    """A short sentence, not an expression: four words, or one that no expression knows beside mathematics."""
    words = _WORDS.findall(text)
    if len(words) >= 4:
        return True
    outside = [word for part, is_math in parts if not is_math for word in _WORDS.findall(_COMMAND.sub(" ", part))]
    has_mathematics = any(is_math for _, is_math in parts) or any(letter.isdigit() for letter in text)
    return has_mathematics and any(word.lower() not in _EXPRESSED and word not in UNITS for word in outside)
