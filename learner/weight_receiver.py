"""Policy weights on their way in: a thread that takes part in every broadcast and stages whole, checked versions in host memory.

A torn broadcast changes nothing. A second thread, with a connection of its own, holds what the watch of the engine (`learner.weight_watch`) asks for,
also while a broadcast is on its way. Runs in the process that holds the model (`learner.vllm_engine` starts it there). Knows torch; no Ray, no vLLM.
"""

import contextlib
import logging
import threading
import time

import msgspec
import torch
from torch import distributed

from learner.weight_group import Backend, WeightGroup, address_towards, connect, first_line
from learner.weight_protocol import (
    EVENTS_KEPT,
    GONE,
    HELD,
    NEWEST_CALL_KEY,
    NUM_EVENTS_KEY,
    POLL_S,
    Announced,
    Answer,
    Called,
    Event,
    Formed,
    StagedVersion,
    answer_key,
    event_key,
    held_key,
    hold_key,
    joined_key,
    kept_key,
    staged_key,
)
from learner.weight_shelf import Shelf
from learner.weights import WEIGHT_DTYPE, digest, views
from rlvr.errors import BroadcastError
from rlvr.records import Version

logger = logging.getLogger(__name__)


class WeightReceiver:
    """One receiving member, from its first join until it is closed or the sender is gone."""

    def __init__(
        self,
        address: tuple[str, int],
        name: str,
        *,
        backend: Backend = "gloo",
        deadline_s: float = 60.0,
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
        self._own_address = address_towards(*address)
        self._store = connect(address, deadline_s)
        self._next_event = int(self._store.get(NEWEST_CALL_KEY)) if self._store.check([NEWEST_CALL_KEY]) else 0
        self._group: WeightGroup | None = None
        self._called = Called(epoch=0, members=())
        self._num_staged = 0
        self._num_kept_told = -1
        self._shelf = Shelf(name)
        self._closing = threading.Event()
        self._error: BaseException | None = None
        holds = connect(address, deadline_s)  # the broadcasts' connection is busy while a group forms
        self._threads = [
            threading.Thread(target=self._run, name=f"weights-{name}", daemon=True),
            threading.Thread(target=self._answer_holds, args=(holds,), name=f"holds-{name}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def staged(self) -> tuple[StagedVersion, ...]:
        """What waits to be taken, oldest first."""
        return self._shelf.staged()

    def take(self, version: Version) -> dict[str, torch.Tensor]:
        """Hand over a staged version, by checkpoint name; older ones are dropped with it.

        Raises BroadcastError when it is not staged, with the reason where the receiver has failed.
        """
        try:
            return self._shelf.take(version)
        except BroadcastError as error:
            raise error from self._error

    def close(self) -> None:
        """Stop the threads; returns when they have ended, which a broadcast in progress can delay by its deadline."""
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._tell_kept()
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
            with contextlib.suppress(RuntimeError):  # the sender is gone, too
                self._store.set(kept_key(self.name), "0")  # nobody waits for room at a receiver that has stopped

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
        self._shelf.put(staged, tensors)
        self._tell_kept()  # before the answer, after which the sender may look for room
        self._store.set(staged_key(self.name, self._num_staged), msgspec.json.encode(staged).decode())
        self._num_staged += 1

    def _tell_kept(self) -> None:
        num_kept = sum(staged.keep for staged in self._shelf.staged())
        if num_kept != self._num_kept_told:
            self._store.set(kept_key(self.name), str(num_kept))
            self._num_kept_told = num_kept

    def _answer_holds(self, store: distributed.TCPStore) -> None:
        """Hold what the watch of this engine asks for, and say whether it is still there."""
        number = 0
        try:
            while not self._closing.wait(POLL_S):
                if store.check([key := hold_key(self.name, number)]):
                    is_held = self._shelf.hold(Version.parse(store.get(key).decode()))
                    store.delete_key(key)
                    store.set(held_key(self.name, number), HELD if is_held else GONE)
                    number += 1
        except RuntimeError as error:
            logger.debug("receiver %s is asked for no version any more: %s", self.name, first_line(error))  # the broadcasts' thread says it aloud

    def _drop_group(self) -> None:
        if self._group is not None:
            self._group.abort()
            self._group = None
