"""The files of checkpoints in a store: names, marker, checksums, and what goes when newer ones are there.

Owns the layout: checkpoints/step-NNNNNN/ holds a Hugging Face folder and state/ (`learner.checkpoint_state`); its checkpoint.json, written last,
lists every file with size and BLAKE2b and is what makes a folder a checkpoint. Names that begin with a dot are unfinished work of a save, with the
token of the learner that does it; beside checkpoints/, checkpoints.owner has the token of the last learner that loaded: only that one may write.
Called by `learner.checkpoint`; knows no torch and no rank.
"""

import contextlib
import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from rlvr.errors import LearnerError, StoreError, UserError
from rlvr.records import Version
from rlvr.store import PIECE_BYTES, Store

ROOT = "checkpoints"
MARKER = "checkpoint.json"
PASSED_OVER = f"{MARKER}.passed-over"
"""What the marker is called after a run went on from an older checkpoint: this one belongs to no lineage any more."""
WHY_UNMARKED = "its save was cut short, or it was passed over before, or somebody removed it"
OWNER = "checkpoints.owner"
STATE = "state"
FORMAT = 1

_MARKED = re.compile(rf"{ROOT}/(step-(\d{{6,}}))/{re.escape(MARKER)}")


class DamagedError(Exception):
    """A checkpoint that is not whole; the message says what is wrong with it."""


class File(msgspec.Struct, frozen=True, order=True):
    """One file of a checkpoint, by its name in the folder."""

    name: str
    num_bytes: int
    blake2b: str


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """checkpoint.json. checksum: BLAKE2b of the marker itself, with this field empty."""

    format: int = FORMAT
    version: str
    world_size: int
    """Ranks that wrote it; any number may read it."""
    files: tuple[File, ...]
    checksum: str = ""


class _Format(msgspec.Struct):
    """What a marker of any format says."""

    format: int


def folder_of(step: int) -> str:
    return f"{ROOT}/step-{step:06d}"


def hidden_of(version: Version, token: str, what: str) -> str:
    """A folder for unfinished work on this version, which no other learner and no other attempt at its step has."""
    return f"{ROOT}/.step-{version.step:06d}.{version}.{token}.{what}"


def partial_of(version: Version, token: str) -> str:
    """Where a checkpoint is put together before it has its name."""
    return hidden_of(version, token, "partial")


def claim(store: Store, token: str) -> None:
    """From now on the checkpoints are written by the learner of this token, and by no other one that still lives."""
    store.write(OWNER, token.encode())


def require_owner(store: Store, token: str) -> None:
    """Raise LearnerError where another learner has loaded since."""
    owner = store.read(OWNER).decode(errors="replace")
    if owner != token:
        raise LearnerError(f"another learner ({owner}) has loaded the run's checkpoints since this one ({token}) did: this one writes nothing more")


def written(folder: Path) -> list[File]:
    """Every file below a folder of this host, with its checksum."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [File(path.relative_to(folder).as_posix(), path.stat().st_size, blake2b(_pieces_of(path))) for path in paths]


def blake2b(pieces: Iterator[bytes]) -> str:
    whole = hashlib.blake2b(digest_size=32)
    for piece in pieces:
        whole.update(piece)
    return whole.hexdigest()


def encode_marker(version: Version, files: Sequence[File], *, world_size: int) -> bytes:
    marker = Marker(version=str(version), world_size=world_size, files=tuple(sorted(files)))
    return _as_text(msgspec.structs.replace(marker, checksum=_checksum(marker)))


def read_marker(store: Store, step: int) -> Marker:
    """Raises DamagedError for a marker that is missing, torn or changed in any byte, UserError for one of a later format."""
    try:
        data = store.read(f"{folder_of(step)}/{MARKER}")
        if (found := msgspec.json.decode(data, type=_Format).format) > FORMAT:
            raise UserError(f"the checkpoint {folder_of(step)} has format {found}; this firesteel reads formats up to {FORMAT}: use a newer one")
        marker = msgspec.json.decode(data, type=Marker)
        version = Version.parse(marker.version)
    except FileNotFoundError as error:
        raise DamagedError(f"its {MARKER} is missing: {WHY_UNMARKED}") from error
    except (StoreError, msgspec.MsgspecError, ValueError) as error:
        raise DamagedError(f"its {MARKER} is unreadable: {error}") from error
    if data != _as_text(marker) or marker.checksum != _checksum(msgspec.structs.replace(marker, checksum="")):
        raise DamagedError(f"its {MARKER} does not have its own checksum")
    if version.step != step:
        raise DamagedError(f"its {MARKER} is that of version {version}: somebody renamed its folder")
    return marker


def require_readable(store: Store) -> None:
    """Raise UserError where the newest checkpoint whose marker is whole has a later format; StoreError where the store cannot be read."""
    for step in reversed(marked_steps(store)):
        try:
            read_marker(store, step)
        except DamagedError:  # who restores goes back to the one before it, and says so
            continue
        return


def check_file(file: File, pieces: Iterator[bytes]) -> None:
    """Raise DamagedError unless these are the bytes that were written."""
    try:
        found = blake2b(pieces)
    except (OSError, StoreError) as error:
        raise DamagedError(f"{file.name} cannot be read: {error}") from error
    if found != file.blake2b:
        raise DamagedError(f"{file.name} is not the file that was written: its checksum differs")


def check_files(store: Store, step: int, files: Sequence[File]) -> None:
    """Raise DamagedError unless these files of a checkpoint are whole, as the store gives them."""
    for file in files:
        check_file(file, _pieces_in(store, f"{folder_of(step)}/{file.name}"))


def fetch(store: Store, step: int, files: Sequence[File], folder: Path) -> None:
    """Bring these files of a checkpoint to a folder of this host. Raises DamagedError unless they are whole."""
    for file in files:
        try:
            store.download(f"{folder_of(step)}/{file.name}", folder / file.name)
        except (OSError, StoreError) as error:
            raise DamagedError(f"{file.name} cannot be read: {error}") from error
        check_file(file, _pieces_of(folder / file.name))


def marked_steps(store: Store) -> list[int]:
    """Steps of the folders that have a marker, whatever it says; oldest first."""
    found = (_MARKED.fullmatch(entry.name) for entry in store.list(ROOT))
    return sorted(int(match[2]) for match in found if match)


def unmarked_steps(store: Store) -> list[int]:
    """Steps of the folders that hold files but no marker."""
    found = (re.match(rf"{ROOT}/step-(\d{{6,}})/", entry.name) for entry in store.list(ROOT))
    return sorted({int(match[1]) for match in found if match} - set(marked_steps(store)))


def remove_leftovers(store: Store, *, but: Collection[str] = ()) -> None:
    """Remove what saves that were cut short have left; the folders named in `but` stay."""
    local = store.local(ROOT)
    names = {entry.name.split("/")[1] for entry in store.list(ROOT) if "/" in entry.name.removeprefix(f"{ROOT}/")}
    names |= {path.name for path in local.iterdir()} if local is not None and local.is_dir() else set()
    for name in sorted(names):
        if re.match(r"\.step-\d{6,}\.", name) and f"{ROOT}/{name}" not in but:
            store.remove(f"{ROOT}/{name}")


def pass_over(store: Store, step: int) -> None:
    """Take the marker of a checkpoint that was not used: the run goes on below it, and it must not come back when it can be read again."""
    with contextlib.suppress(FileNotFoundError):
        store.rename(f"{folder_of(step)}/{MARKER}", f"{folder_of(step)}/{PASSED_OVER}")


def complete(store: Store, version: Version, marker: bytes, *, token: str) -> None:
    """Give a partial folder its name and then its marker. A folder that has the name already steps aside, and goes.

    Raises LearnerError, before anything has its name and again before the marker, where another learner has loaded since.
    """
    folder, aside = folder_of(version.step), hidden_of(version, token, "replaced")
    require_owner(store, token)
    if store.list(folder):
        store.rename(folder, aside)
    store.rename(partial_of(version, token), folder)
    require_owner(store, token)
    store.write(f"{folder}/{MARKER}", marker)
    store.remove(aside)


def prune(store: Store, newest: int, *, keep: int, damaged: Collection[int]) -> tuple[int, ...]:
    """Remove all but the `keep` newest checkpoints up to `newest`. Returns the steps of those that stay, oldest first.

    What is later than `newest` belongs to a lineage that was rolled back; it goes, as do folders without a marker and those known as damaged.
    """
    whole = [step for step in marked_steps(store) if step <= newest and step not in damaged]
    kept = tuple(whole[-keep:])
    for step in {*marked_steps(store), *unmarked_steps(store)} - set(kept):
        remove(store, step)
    return kept


def remove(store: Store, step: int) -> None:
    """The marker goes first: half a checkpoint must not look like a damaged one."""
    store.remove(f"{folder_of(step)}/{MARKER}")
    store.remove(folder_of(step))


def each(files: Sequence[File], *, is_state: bool) -> list[File]:
    """The files of the exact state, or the others."""
    return [file for file in files if file.name.startswith(f"{STATE}/") == is_state]


def _pieces_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _pieces_in(store: Store, name: str) -> Iterator[bytes]:
    local = store.local(name)
    if local is not None:
        yield from _pieces_of(local)
        return
    offset = 0
    while piece := store.read(name, offset=offset, size=PIECE_BYTES):
        yield piece
        offset += len(piece)


def _as_text(marker: Marker) -> bytes:
    return msgspec.json.format(msgspec.json.encode(marker), indent=1) + b"\n"


def _checksum(marker: Marker) -> str:
    return hashlib.blake2b(_as_text(marker), digest_size=32).hexdigest()
