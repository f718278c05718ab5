"""The journal's bytes as the audit reads them: its own parser, which shares no code with the queue that wrote them.

Owns frames, group commits and the order of segments, as `actors/journal/__init__.py` specifies them. Called by `benchmarks.audit` and by the chaos
run, which damages tails. A frame that does not check is told apart: a torn tail of the newest segment, or corruption with its offset.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import msgspec

WIRE_VERSION = 1
HEAD = struct.Struct("<BI")
HEADER_BYTES = HEAD.size + 4
ARCHIVE = "archive"
SUFFIX = ".journal"
BEGINS_GROUP = ("header", "group")

Entry = dict[str, Any]


class Frame(msgspec.Struct, frozen=True):
    """One whole frame: where it lies and what it says."""

    start: int
    end: int
    entry: Entry


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One segment as far as it checks; `bad_at` is the offset of what does not, `torn_bytes` what a dead writer left behind it."""

    number: int
    frames: tuple[Frame, ...]
    num_bytes: int
    bad_at: int | None = None
    torn_bytes: int = 0


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """All segments, oldest first."""

    segments: tuple[Segment, ...]
    corrupt: tuple[str, ...]
    """What is damaged and is no torn tail: segment and offset."""
    missing: tuple[int, ...]
    """Numbers between two segments that nobody has."""

    @property
    def num_bytes(self) -> int:
        return sum(segment.num_bytes for segment in self.segments)

    @property
    def torn_bytes(self) -> int:
        return sum(segment.torn_bytes for segment in self.segments)

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """(place, entry) in the order in which things happened."""
        for segment in self.segments:
            for frame in segment.frames:
                yield f"{segment.number:08d}@{frame.start}", frame.entry


def read_journal(folder: Path) -> Journal:
    """Read every segment, those under archive/ first; a number in both places is one segment."""
    corrupt: list[str] = []
    files = segment_files(folder)
    segments: list[Segment] = []
    for number, places in files.items():
        contents = [place.read_bytes() for place in places]
        if any(content != contents[0] for content in contents[1:]):
            corrupt.append(f"segment {number:08d} lies in the journal and in its archive with different bytes")
        segment = read_segment(max(contents, key=len), number=number, is_newest=number == max(files))
        if segment.bad_at is not None and not segment.torn_bytes:
            corrupt.append(f"segment {number:08d} does not check at offset {segment.bad_at} of {segment.num_bytes}")
        segments.append(segment)
    present = set(files)
    missing = tuple(number for number in range(min(present, default=0), max(present, default=0)) if number not in present)
    return Journal(segments=tuple(segments), corrupt=tuple(corrupt), missing=missing)


def segment_files(folder: Path) -> dict[int, list[Path]]:
    """The files of each segment by number, in order; the archive's before the journal's own."""
    found: dict[int, list[Path]] = {}
    for place in (folder / ARCHIVE, folder):
        for file in place.glob(f"*{SUFFIX}"):
            if file.stem.isdigit():
                found.setdefault(int(file.stem), []).append(file)
    return dict(sorted(found.items()))


def read_segment(data: bytes, *, number: int, is_newest: bool) -> Segment:
    """Every frame up to the first that does not check; in the newest segment the rest is a torn tail where no whole group commit follows it."""
    frames: list[Frame] = []
    offset = 0
    while offset < len(data):
        frame = frame_at(data, offset)
        if frame is None:
            torn = len(data) - offset if is_newest and not _group_follows(data, offset + 1) else 0
            return Segment(number=number, frames=tuple(frames), num_bytes=len(data), bad_at=offset, torn_bytes=torn)
        frames.append(frame)
        offset = frame.end
    return Segment(number=number, frames=tuple(frames), num_bytes=len(data))


def frame_at(data: bytes, start: int) -> Frame | None:
    """The frame that begins at `start`; None where none does that checks."""
    if start + HEADER_BYTES > len(data):
        return None
    version, length = HEAD.unpack_from(data, start)
    end = start + HEADER_BYTES + length
    if version != WIRE_VERSION or end > len(data):
        return None
    (expected,) = struct.unpack_from("<I", data, start + HEAD.size)
    payload = data[start + HEADER_BYTES : end]
    if zlib.crc32(payload, zlib.crc32(data[start : start + HEAD.size])) != expected:
        return None
    entry = msgpack.unpackb(payload, unicode_errors="surrogatepass")
    return Frame(start, end, entry) if isinstance(entry, dict) else None


def _group_follows(data: bytes, start: int) -> bool:
    """Whether a whole `group` entry lies anywhere after `start`: then what does not check before it was acknowledged."""
    mark = bytes([WIRE_VERSION])
    at = data.find(mark, start)
    while at != -1:
        frame = frame_at(data, at)
        if frame is not None and frame.entry.get("type") in BEGINS_GROUP:
            return True
        at = data.find(mark, at + 1)
    return False
