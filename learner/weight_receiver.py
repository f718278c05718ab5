"""Policy weights on their way in: a thread that takes part in every broadcast and stages whole, checked versions in host memory.

Owns the staged versions: the newest ones, and those announced with `keep` until they, or a newer one, are taken. A torn broadcast changes nothing.
Runs in the process that holds the model (`learner.vllm_engine` starts it there); `StagedWatch` tells another process of the same host what is
staged. Knows torch; no Ray, no vLLM.
"""

import logging
import threading
import time
from collections.abc import Sequence

import msgspec
import torch
from torch import distributed

from learner.weight_group import Backend, WeightGroup, address_towards, first_line, seconds
from learner.weight_protocol import (
    EVENTS_KEPT,
    NEWEST_CALL_KEY,
    NOT_STAGED,
    NUM_EVENTS_KEY,
    Announced,
    Answer,
    Called,
    Event,
    Formed,
    StagedVersion,
    answer_key,
    event_key,
    joined_key,
    staged_key,
)
from learner.weights import WEIGHT_DTYPE, digest, views
from rlvr.errors import BroadcastError
from rlvr.records import Version

logger = logging.getLogger(__name__)

POLL_S = 0.01
"""Between two looks at the store (a look takes some 50 microseconds). The store's own wait prints a warning whenever nothing came in time."""


class Staged(msgspec.Struct, frozen=True):
    """A staged version and its tensors."""

    staged: StagedVersion
    tensors: dict[str, torch.Tensor]


class WeightReceiver:
    """One receiving member, from its first join until it is closed or the sender is gone."""

    def __init__(
        self,
        address: tuple[str, int],
        name: str,
        *,
        backend: Backend = "gloo",
        deadline_s: float = 60.0,
        num_newest: int = 1,
        device: torch.device | None = None,
    ) -> None:
        """Begin to receive.

        address: of the sender's store. name: as the sender's `form` will call it; a restart needs another. device: for nccl, the GPU to receive on.
        Raises BroadcastError when the store does not answer.
        """
        self.name = name
        self._device = device
        self._backend: Backend = backend
        self._deadline_s = deadline_s
        self._num_newest = num_newest
        self._own_address = address_towards(*address)
        self._store = connect(address, deadline_s)
        self._next_event = int(self._store.get(NEWEST_CALL_KEY)) if self._store.check([NEWEST_CALL_KEY]) else 0
        self._group: WeightGroup | None = None
        self._called = Called(epoch=0, members=())
        self._num_staged = 0
        self._versions: dict[Version, Staged] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"weights-{name}", daemon=True)
        self._thread.start()

    def staged(self) -> tuple[StagedVersion, ...]:
        """What waits to be taken, oldest first."""
        with self._lock:
            return tuple(self._versions[version].staged for version in sorted(self._versions))

    def take(self, version: Version) -> dict[str, torch.Tensor]:
        """Hand over a staged version, by checkpoint name; older ones are dropped with it.

        Raises BroadcastError when it is not staged, with the reason where the receiver has failed.
        """
        with self._lock:
            if version not in self._versions:
                there = ", ".join(str(each) for each in sorted(self._versions)) or "none"
                raise BroadcastError(f"version {version} {NOT_STAGED} at {self.name} (staged: {there})") from self._error
            taken = self._versions.pop(version)
            self._versions = {each: staged for each, staged in self._versions.items() if each > version}
            return taken.tensors

    def close(self) -> None:
        """Stop the thread; returns when it has ended, which a broadcast in progress can delay by its deadline."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                match self._wait_for_event():
                    case Called() as called:
                        self._answer_call(called)
                    case Formed(epoch=epoch) if epoch == self._called.epoch:
                        self._join()
                    case Announced(epoch=epoch) as announced if epoch == self._called.epoch and self._group is not None:
                        self._receive(announced)
        except Exception as error:  # noqa: BLE001 - the thread's outermost frame: what it met is raised by the next `take`
            self._error = error
            logger.warning("receiver %s stopped, weights stay as they are until it joins again: %s", self.name, first_line(error))
        finally:
            self._drop_group()

    def _wait_for_event(self) -> Event | None:
        num_events = self._store.add(NUM_EVENTS_KEY, 0)
        if num_events == self._next_event:
            self._closing.wait(POLL_S)
            return None
        # A receiver that slept very long finds that the sender has forgotten events: it goes on with the oldest one that is left.
        self._next_event = max(self._next_event, num_events - EVENTS_KEPT)
        event: Event = msgspec.json.decode(self._store.get(event_key(self._next_event)), type=Event)
        self._next_event += 1
        return event

    def _answer_call(self, called: Called) -> None:
        self._drop_group()
        self._called = called
        if self.name in called.members:
            self._store.set(joined_key(called.epoch, self.name), "1")

    def _join(self) -> None:
        if self.name not in self._called.members:
            return
        try:
            self._group = WeightGroup(
                self._store, epoch=self._called.epoch, rank=1 + self._called.members.index(self.name), size=1 + len(self._called.members),
                address=self._own_address, backend=self._backend, deadline_s=self._deadline_s, device=self._device,
            )  # fmt: skip
        except BroadcastError as error:
            logger.warning("receiver %s waits for the next group: %s", self.name, error)

    def _receive(self, announced: Announced) -> None:
        """Take part in one broadcast, answer, and stage the version if it is whole."""
        try:
            tensors = self._receive_tensors(announced)
            answer = Answer(digest=digest(tensors))
        except BroadcastError as error:
            self._drop_group()
            logger.warning("receiver %s lost version %s and waits for the next group: %s", self.name, announced.version, error)
            answer = Answer(error=str(error))
        else:
            if answer.digest == announced.digest:
                self._stage(StagedVersion(version=Version.parse(announced.version), keep=announced.keep), tensors)
        self._store.set(answer_key(announced.sequence, self.name), msgspec.json.encode(answer).decode())

    def _receive_tensors(self, announced: Announced) -> dict[str, torch.Tensor]:
        assert self._group is not None
        ends_at = time.monotonic() + self._deadline_s
        flat = torch.empty(sum(torch.Size(shape).numel() for shape in announced.shapes), dtype=WEIGHT_DTYPE)
        for start in range(0, flat.numel(), announced.chunk_values):
            self._group.broadcast(flat[start : start + announced.chunk_values], ends_at=ends_at)
        return views(flat, announced.names, announced.shapes)

    def _stage(self, staged: StagedVersion, tensors: dict[str, torch.Tensor]) -> None:
        with self._lock:
            self._versions[staged.version] = Staged(staged, tensors)
            newest = sorted(self._versions)[-self._num_newest :]
            self._versions = {version: each for version, each in self._versions.items() if each.staged.keep or version in newest}
        self._store.set(staged_key(self.name, self._num_staged), msgspec.json.encode(staged).decode())
        self._num_staged += 1

    def _drop_group(self) -> None:
        if self._group is not None:
            self._group.abort()
            self._group = None


class StagedWatch:
    """Sees, from any process, which versions every one of `names` has staged. Thread-safe."""

    def __init__(self, address: tuple[str, int], names: Sequence[str], *, deadline_s: float = 60.0) -> None:
        self._store = connect(address, deadline_s)
        self._next = dict.fromkeys(names, 0)
        self._reported: dict[StagedVersion, set[str]] = {}
        self._turn = threading.Lock()

    def next(self, after: Version | None, *, wait_s: float) -> StagedVersion | None:
        """The oldest kept version after `after` (None: any) that all have staged, else the newest one; None when there is none within `wait_s`.

        Raises BroadcastError when the sender's store is gone.
        """
        ends_at = time.monotonic() + wait_s
        while True:
            with self._turn:
                try:
                    self._read_reports()
                except RuntimeError as error:
                    raise BroadcastError(f"the sender of weights is gone: {first_line(error)}") from error
                chosen = self._choose(after)
            if chosen or time.monotonic() >= ends_at:
                return chosen
            time.sleep(POLL_S)

    def _choose(self, after: Version | None) -> StagedVersion | None:
        if after is not None:
            self._reported = {staged: names for staged, names in self._reported.items() if staged.version > after}
        whole = sorted((staged for staged, names in self._reported.items() if len(names) == len(self._next)), key=lambda staged: staged.version)
        kept = [staged for staged in whole if staged.keep]
        return next(iter(kept or whole[-1:]), None)

    def _read_reports(self) -> None:
        for name in self._next:
            while self._store.check([key := staged_key(name, self._next[name])]):
                staged = msgspec.json.decode(self._store.get(key), type=StagedVersion)
                self._store.delete_key(key)
                self._next[name] += 1
                self._reported.setdefault(staged, set()).add(name)


def connect(address: tuple[str, int], deadline_s: float) -> distributed.TCPStore:
    """A client of the sender's store. Raises BroadcastError when nobody answers."""
    try:
        return distributed.TCPStore(*address, is_master=False, wait_for_workers=False, timeout=seconds(deadline_s))
    except RuntimeError as error:
        raise BroadcastError(f"no sender of weights at {address[0]}:{address[1]}: {first_line(error)}") from error
