"""What a Markdown document says to machines: its fences, code spans, links and headings, each with its line.

Owns the reading alone; what is true of a command or a key is for document_commands and document_values to say.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FILE_NAME = re.compile(r"# (\S+\.yaml)\n")


@dataclass(frozen=True)
class Piece:
    """Some text of a document, and the line where it begins."""

    text: str
    line: int
    language: str = ""

    @property
    def file_name(self) -> str:
        """What the fence says that it is, in a first line `# NAME.yaml`; empty where it does not say."""
        named = _FILE_NAME.match(self.text)
        return named[1] if named else ""


@dataclass(frozen=True)
class Document:
    path: Path
    """Where it lies, or would lie: links are relative to it."""
    text: str

    @classmethod
    def read(cls, path: Path) -> "Document":
        return cls(path, path.read_text(encoding="utf-8"))

    @cached_property
    def fences(self) -> list[Piece]:
        return [Piece(found[2], self._line(found.start()) + 1, found[1]) for found in _FENCE.finditer(self.text)]

    @cached_property
    def spans(self) -> list[Piece]:
        """Code within the prose."""
        return [Piece(found[1].strip(), self._line(found.start())) for found in _SPAN.finditer(self._prose)]

    @cached_property
    def links(self) -> list[Piece]:
        return [Piece(found[1], self._line(found.start())) for found in _LINK.finditer(self._prose)]

    @cached_property
    def anchors(self) -> set[str]:
        """Of the headings, as GitHub makes them."""
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(self._prose)}

    def of(self, *languages: str) -> list[Piece]:
        return [fence for fence in self.fences if fence.language in languages]

    @cached_property
    def _prose(self) -> str:
        """The text with its fences blanked out, line for line."""
        return _FENCE.sub(lambda found: "\n" * found[0].count("\n"), self.text)

    def _line(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1
