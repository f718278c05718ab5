"""Who owns a run: one controller, which says so in the store's `lock.json` and beats there.

Owns the file, the judgement whether its owner lives, and the fencing of an owner that was given up: at its next beat it finds another token and
stops at once. Called by the controller (acquire, beat, release) and by whoever asks for a run's state; knows no Ray.

In a folder every change is made under `flock` on a file beside the lock, so of two that take over at the same moment exactly one wins. An object
store has no such thing: there the winner is whose token stands after SETTLE_S. A writer that is slower than that, or a mounted volume whose flock
means nothing to other hosts, lets two believe that they own the run until the next beat of one of them: at most BEAT_S. A beat is judged by the
reader's clock: hosts are expected to agree within seconds. Who waits for an owner (`actors.run.resume`) looks whether it beats.
"""

import contextlib
import enum
import fcntl
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from rlvr.errors import LockLost, StoreError, UserError
from rlvr.store import Store

logger = logging.getLogger(__name__)

LOCK = "lock.json"
GUARD = "lock.guard"
FORMAT = 1
BEAT_S = 5.0
"""The owner beats so often."""
STALE_S = 30.0
"""An owner whose last beat is older is given up. One that could not beat for so long gives itself up."""
SETTLE_S = 2.0
"""On an object store: after this a token that was written is looked at again."""


class LockState(enum.StrEnum):
    FREE = "free"  # nobody owns the run
    ALIVE = "alive"  # its owner beats
    STALE = "stale"  # its owner is gone, or silent for too long


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The process that owns a run."""

    host: str
    pid: int
    machine: str
    """Boot and process namespace: where `pid` means something."""
    began: str
    """Of the process, in the machine's ticks: another process may have its id later."""
    token: str
    started: str


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """lock.json."""

    owner: Owner
    heartbeat_ms: int
    """Since 1970 by the owner's clock."""
    format: int = FORMAT


class LockReading(msgspec.Struct, frozen=True, kw_only=True):
    """What lock.json says now."""

    state: LockState
    lock: Lock | None = None
    silent_s: float = 0.0

    @property
    def sentence(self) -> str:
        """Who owns the run, for a refusal or a log line."""
        if self.lock is None:
            return "nobody owns the run"
        owner = self.lock.owner
        gone = ", which is gone" if _is_gone(owner) else ""
        return f"process {owner.pid} of {owner.host}{gone}, whose last heartbeat is {self.silent_s:.0f} s old"


def read_lock(store: Store, *, now: Callable[[], float] = time.time) -> LockReading:
    """Who owns the run of this store. Raises UserError for a lock that cannot be read, StoreError where the store cannot."""
    try:
        lock = _decoded(store.read(LOCK))
    except FileNotFoundError:
        return LockReading(state=LockState.FREE)
    silent_s = max(0.0, now() - lock.heartbeat_ms / 1000)
    is_stale = silent_s >= STALE_S or _is_gone(lock.owner)
    return LockReading(state=LockState.STALE if is_stale else LockState.ALIVE, lock=lock, silent_s=silent_s)


class RunLock:
    """The lock of a run, held by this process. Beats come from one place; `acquire` makes it."""

    def __init__(self, store: Store, owner: Owner, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        self._last_beat = time.monotonic()
        self.owner = owner

    @classmethod
    def acquire(cls, store: Store, *, silent: str = "", now: Callable[[], float] = time.time) -> "RunLock":
        """Own the run of this store. A stale lock is taken over, which is logged. Raises UserError where another process owns the run.

        silent: token of an owner that was seen not to beat for STALE_S, whose lock is stale whatever its clock said.
        """
        owner = _this_process()
        with _guarded(store):
            found = read_lock(store, now=now)
            if found.state is LockState.ALIVE and (found.lock is None or found.lock.owner.token != silent):
                raise UserError(f"the run is going: {found.sentence}; `firesteel status` shows it, `firesteel stop` ends it")
            if found.lock is not None:
                logger.warning("the lock of %s is taken over", found.sentence)
            _write(store, owner, now())
        if store.local(LOCK) is None:
            time.sleep(SETTLE_S)
            standing = read_lock(store, now=now)
            if standing.lock is None or standing.lock.owner.token != owner.token:
                raise UserError(f"another process took over the run at the same moment: {standing.sentence}")
        return cls(store, owner, now=now)

    def beat(self) -> None:
        """Say that the owner lives; call it every BEAT_S.

        Raises LockLost where another process owns the run now, or where no beat could be written for STALE_S: stop at once, write nothing more.
        Raises StoreError where this one beat could not be written: call again.
        """
        try:
            with _guarded(self._store):
                length = self._check()
                _write(self._store, self.owner, self._now(), in_place_of=length)
        except StoreError as error:
            if time.monotonic() - self._last_beat >= STALE_S:
                raise LockLost(f"no heartbeat could be written for {STALE_S:g} s, others may own the run by now: {error}") from error
            raise
        self._last_beat = time.monotonic()

    def release(self) -> None:
        """Nobody owns the run any more. Raises LockLost where another process owns it already, whose lock stays."""
        with _guarded(self._store):
            self._check()
            self._store.remove(LOCK)

    def _check(self) -> int:
        """The length of the lock as it stands. Raises LockLost unless it is ours."""
        try:
            data = self._store.read(LOCK)
        except FileNotFoundError:
            raise LockLost(f"the run's lock was removed: another process may own it by now; this one, {self.owner.pid}, stops") from None
        lock = _decoded(data)
        if lock.owner.token != self.owner.token:
            raise LockLost(
                f"the run was taken over by process {lock.owner.pid} of {lock.owner.host}, since this one, {self.owner.pid}, was silent; it stops"
            )
        return len(data)


def _this_process() -> Owner:
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        machine=_machine(),
        began=_began(os.getpid()) or "",
        token=secrets.token_hex(16),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _is_gone(owner: Owner) -> bool:
    """True where that process was one of this machine and is no more; of another machine's nothing can be said."""
    return is_here(owner) and _began(owner.pid) != owner.began


def is_here(owner: Owner) -> bool:
    """Whether its process, alive or not, is one of this machine."""
    return bool(owner.machine) and owner.machine == _machine()


def _machine() -> str:
    """Empty where the system does not say."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> str | None:
    """When a living process began; None where there is none, or it waits to be reaped."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]


def _decoded(data: bytes) -> Lock:
    """The lock of a file. Raises UserError for one of a newer version, or none at all."""
    try:
        found = msgspec.json.decode(data)["format"]
        if found > FORMAT:
            raise UserError(f"{LOCK} is of format {found}, this firesteel knows {FORMAT}: use the newer one")
        return msgspec.json.decode(data, type=Lock)
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise UserError(f"{LOCK} cannot be read ({error}); remove it where no process of this run lives") from error


def _write(store: Store, owner: Owner, now: float, *, in_place_of: int = 0) -> None:
    """A beat in a folder overwrites the lock, of the same length, where it lies: that works on a full disk too, where a run waits for space."""
    data = msgspec.json.encode(Lock(owner=owner, heartbeat_ms=int(now * 1000)))
    if len(data) == in_place_of and store.local(LOCK) is not None:
        store.write_at(LOCK, data, offset=0)
    else:
        store.write(LOCK, data)


@contextlib.contextmanager
def _guarded(store: Store) -> Iterator[None]:
    """Nobody else changes the lock of a folder meanwhile. Raises StoreError where the folder's file system cannot lock."""
    guard = store.local(GUARD)
    if guard is None:
        yield
        return
    try:
        guard.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(guard, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"{guard}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreError(f"{guard} cannot be locked: {error.strerror}; use a volume that can, or a URL, as run.store") from error
        yield
    finally:
        os.close(descriptor)
