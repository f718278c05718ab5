"""Two hazards that are no signals: a disk that is full for some seconds, and a journal whose tail is damaged while nobody writes it.

Owns the small file system (a tmpfs, where mounting is allowed) and the bytes that are appended or cut. Called by `benchmarks.chaos`.
"""

import contextlib
import json
import random
import subprocess
from pathlib import Path

from benchmarks.audit_evidence import CUT
from benchmarks.audit_journal import Frame, read_segment, segment_files
from benchmarks.chaos_parts.schedule import Damage

FILLER = ".filler"
PIECE_BYTES = 4 * 2**20
SPARED = ("batch", "rolled_back", "committed", "header", "group", "snapshot", "closed")
"""Entries that are never cut: a learner has trained by them, or a checkpoint rests on them, and no system can make them again."""


def mount(folder: Path, *, size_mib: int) -> str | None:
    """Mount a tmpfs; why it cannot be, or None where it is there."""
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip() or f"mount exited with {done.returncode}"


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path) -> int:
    """Write until the file system of `folder` has no byte left; returns how many were free."""
    written = 0
    piece = bytes(PIECE_BYTES)
    with (folder / FILLER).open("wb", buffering=0) as file:
        while True:
            try:
                written += file.write(piece)
            except OSError:  # full
                if len(piece) == 1:
                    return written
                piece = piece[: max(1, len(piece) // 64)]


def free(folder: Path) -> None:
    (folder / FILLER).unlink(missing_ok=True)


def damage_tail(journal: Path, run_dir: Path, *, damage: Damage, chance: random.Random) -> dict[str, object]:
    """Append garbage to the newest segment, or cut its last frame; says what was done.

    A cut takes what was acknowledged, which only a disk that lies can do: ids of rollouts that go with it are written down for the audit.
    """
    files = segment_files(journal)
    if damage is Damage.NONE or not files:
        return {"damage": "none"}
    file = files[max(files)][-1]
    data = file.read_bytes()
    if damage is Damage.GARBAGE:
        garbage = chance.randbytes(chance.randint(1, 300))
        with file.open("ab") as end:
            end.write(garbage)
        return {"damage": "garbage", "segment": file.name, "bytes": len(garbage)}
    segment = read_segment(data, number=0, is_newest=True)
    last = segment.frames[-1]
    if last.entry["type"] in SPARED:
        return {"damage": "none", "reason": f"the last entry is {last.entry['type']}, which is never cut"}
    left = chance.randint(last.start + 1, last.end - 1)
    with file.open("rb+") as end:
        end.truncate(left)
    _note_cut(run_dir, last)
    return {"damage": "cut", "segment": file.name, "bytes": len(data) - left, "entry": last.entry["type"]}


def _note_cut(run_dir: Path, frame: Frame) -> None:
    note = run_dir / CUT
    known: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        known = json.loads(note.read_text(encoding="utf-8"))
    if frame.entry["type"] == "accepted":
        known.append(frame.entry["rollout"]["id"])
    note.write_text(json.dumps(known), encoding="utf-8")
