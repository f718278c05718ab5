"""Policy weights on their way in: a thread that takes part in every broadcast and stages whole, checked versions in host memory.

A torn broadcast changes nothing, and a receiver that lost its group waits for the next one. A second thread, with a connection of its own, gives
signs of life and does what the watch of the engine (`learner.weight_watch`) asks for, also while a broadcast is on its way. The store's own calls
wait for as long as a link is cut, and go on when it is back; only where the sender's process is gone do they raise, and then the receiver ends. Runs
in the process that holds the model (`learner.vllm_engine` starts it there). Knows torch; no Ray, no vLLM.
"""

import contextlib
import logging
import threading
import time

import msgspec
import torch
from torch import distributed

from learner.weight_codec import WEIGHT_DTYPE, digest, views
from learner.weight_group import Backend, WeightGroup, address_towards, connect, first_line
from learner.weight_protocol import (
    EVENTS_KEPT,
    GONE,
    HELD,
    HOLD,
    LIFE_S,
    NEWEST_CALL_KEY,
    NUM_EVENTS_KEY,
    POLL_S,
    STAY,
    Announced,
    Answer,
    Called,
    Event,
    Formed,
    StagedVersion,
    alive_key,
    answer_key,
    ask_key,
    content,
    event_key,
    held_key,
    joined_key,
    kept_key,
    staged_key,
)
from learner.weight_shelf import Shelf
from rlvr.errors import BroadcastError
from rlvr.records import Version

logger = logging.getLogger(__name__)

CLOSE_S = 1.0
"""How long `close` waits for a thread, which only a broken link or a stopped sender can hold up."""


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

        address: of the sender's store. name: as the sender calls it. device: for nccl, the GPU to receive on.
        Raises BroadcastError when the store does not answer.
        """
        self.name = name
        self._device = device
        self._backend: Backend = backend
        self._own_address = address_towards(*address)
        self._store = connect(address, deadline_s)
        self._stay = self._store.add(alive_key(name), STAY) // STAY
        self._next_event = 0
        self._group: WeightGroup | None = None
        self._called = Called(epoch=0, members=())
        self._joined = 0
        self._content = ""
        self._num_staged = 0
        self._num_kept_told = -1
        self._shelf = Shelf(name)
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        requests = connect(address, deadline_s)  # the broadcasts' connection is busy while a group forms
        self._threads = [
            threading.Thread(target=self._run, name=f"weights-{name}", daemon=True),
            threading.Thread(target=self._serve_watch, args=(requests,), name=f"watched-{name}", daemon=True),
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

    def drop_until(self, version: Version) -> None:
        """Do without `version` and all older ones: the model has it from the version log."""
        self._shelf.drop_until(version)

    def close(self) -> None:
        """Stop to receive, at once and for good; what is staged stays.

        A thread that a cut link or a stopped sender holds up is left behind after a second; it stages nothing any more.
        """
        self._closing.set()
        ends_at = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(ends_at - time.monotonic(), 0.0))

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._tell_kept()
                match self._wait_for_event():
                    case Called() as called:
                        self._answer_call(called)
                    case Formed(epoch=epoch) as formed if epoch == self._called.epoch:
                        self._join(formed)
                    case Announced(epoch=epoch) as announced if epoch == self._called.epoch and self._group is not None:
                        self._receive(announced)
        except Exception as error:  # noqa: BLE001 - the thread's outermost frame: what it met is raised by the next `take`
            self._error = error
            logger.warning("receiver %s stopped, weights stay as they are until it joins again: %s", self.name, first_line(error))
        finally:
            self._ended.set()
            self._drop_group()
            with contextlib.suppress(RuntimeError):  # the sender is gone, too
                self._store.set(kept_key(self.name), "0")  # nobody waits for room at a receiver that has stopped

    def _wait_for_event(self) -> Event | None:
        """The next event that is still of use. A receiver that slept goes on with the newest call, whose group it may yet join."""
        try:
            num_events = self._store.add(NUM_EVENTS_KEY, 0)
            if num_events > self._next_event:
                newest_call = int(self._store.get(NEWEST_CALL_KEY))
                self._next_event = max(self._next_event, newest_call, num_events - EVENTS_KEPT)  # older ones are forgotten
            if num_events <= self._next_event:
                self._closing.wait(POLL_S)
                return None
            event: Event = msgspec.json.decode(self._store.get(event_key(self._next_event)), type=Event)
        except distributed.DistStoreError:  # a wait that a cut link made too long; the next look tells what became of the sender
            return None
        self._next_event += 1
        return event

    def _answer_call(self, called: Called) -> None:
        self._drop_group()
        self._called = called
        is_over = self._store.add(NUM_EVENTS_KEY, 0) > self._next_event  # another one of this name had come, and is in that group no more
        if self.name in called.members and not is_over:
            self._joined = called.epoch
            self._store.set(joined_key(called.epoch, self.name), self._content)

    def _join(self, formed: Formed) -> None:
        if self._joined != formed.epoch:
            return
        try:
            self._group = WeightGroup(
                self._store, epoch=formed.epoch, rank=1 + self._called.members.index(self.name), size=1 + len(self._called.members),
                address=self._own_address, backend=self._backend, deadline_s=formed.deadline_s, device=self._device,
            )  # fmt: skip
        except BroadcastError as error:
            logger.warning("receiver %s waits for the next group: %s", self.name, error)

    def _receive(self, announced: Announced) -> None:
        """Take part in one broadcast, answer, and stage the version if it is whole and new."""
        is_known = self._content == content(announced.version, announced.digest)
        try:
            tensors = self._receive_tensors(announced)
            answer = Answer(digest=announced.digest if is_known else digest(tensors))
        except BroadcastError as error:
            self._drop_group()
            if not self._closing.is_set():
                logger.warning("receiver %s lost version %s and waits for the next group: %s", self.name, announced.version, error)
            answer = Answer(error=str(error))
        else:
            if answer.digest == announced.digest and not is_known:
                self._stage(announced, tensors)
        self._store.set(answer_key(announced.sequence, self.name), msgspec.json.encode(answer).decode())

    def _receive_tensors(self, announced: Announced) -> dict[str, torch.Tensor]:
        assert self._group is not None
        ends_at = time.monotonic() + announced.deadline_s
        flat = torch.empty(sum(torch.Size(shape).numel() for shape in announced.shapes), dtype=WEIGHT_DTYPE)
        for start in range(0, flat.numel(), announced.chunk_values):
            if self._closing.is_set():
                raise BroadcastError(f"receiver {self.name} was closed")
            self._group.broadcast(flat[start : start + announced.chunk_values], ends_at=ends_at)
        return views(flat, announced.names, announced.shapes)

    def _stage(self, announced: Announced, tensors: dict[str, torch.Tensor]) -> None:
        staged = StagedVersion(version=Version.parse(announced.version), keep=announced.keep)
        self._shelf.put(staged, tensors)
        self._content = content(announced.version, announced.digest)
        self._tell_kept()  # before the answer, after which the sender may look for room
        self._store.set(staged_key(self.name, self._stay, self._num_staged), msgspec.json.encode(staged).decode())
        self._num_staged += 1

    def _tell_kept(self) -> None:
        num_kept = sum(staged.keep for staged in self._shelf.staged())
        if num_kept != self._num_kept_told:
            self._store.set(kept_key(self.name), str(num_kept))
            self._num_kept_told = num_kept

    def _serve_watch(self, store: distributed.TCPStore) -> None:
        """Give signs of life while broadcasts are received, and do what the watch of this engine asks."""
        number = 0
        shown_at = -LIFE_S
        try:
            while not self._closing.wait(POLL_S):
                if time.monotonic() - shown_at >= LIFE_S and not self._ended.is_set():
                    store.add(alive_key(self.name), 1)
                    shown_at = time.monotonic()
                if store.check([key := ask_key(self.name, self._stay, number)]):
                    self._answer_watch(store, number, store.get(key).decode())
                    store.delete_key(key)
                    number += 1
        except RuntimeError as error:
            logger.debug("receiver %s is asked for no version any more: %s", self.name, first_line(error))  # the broadcasts' thread says it aloud

    def _answer_watch(self, store: distributed.TCPStore, number: int, asked: str) -> None:
        what, _, version = asked.partition(" ")
        if what == HOLD:
            store.set(held_key(self.name, self._stay, number), HELD if self._shelf.hold(Version.parse(version)) else GONE)
        else:
            self._shelf.drop(Version.parse(version))

    def _drop_group(self) -> None:
        if self._group is not None:
            self._group.abort()
            self._group = None
