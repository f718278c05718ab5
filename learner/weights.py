"""Policy weights on their way out: the announcements, and the sender that broadcasts each version to the group of the day.

Owns the store through which both ends speak (`learner.weight_protocol`) and the group. A version that one receiver cannot prove breaks the group, and
whoever is not heard of then is named; what follows from it is the broadcaster's to say (`learner.broadcaster`). The other end is
`learner.weight_receiver`. Knows torch; no Ray, no vLLM.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence

import msgspec
import torch

from learner.weight_codec import WEIGHT_DTYPE, check_tensor, chunks, digest
from learner.weight_group import SENDER_RANK, Backend, WeightGroup, serve
from learner.weight_protocol import (
    EVENTS_KEPT,
    KEPT_MAX,
    NEWEST_CALL_KEY,
    NUM_EVENTS_KEY,
    POLL_S,
    Announced,
    Answer,
    Called,
    Event,
    Formed,
    alive_key,
    answer_key,
    event_key,
    joined_key,
    kept_key,
)
from rlvr.errors import BroadcastError
from rlvr.records import Version

logger = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 2**20
GRACE_S = 1.0
"""After a broken broadcast: how long the living have to say so, which tells them from the dead."""
JOIN_S = 5.0
"""How long a called receiver, which was alive just now, may take to come."""
BUILD_S = 20.0
"""How long the group may take to be built when all have come; gloo takes less than one second."""


class BroadcastReport(msgspec.Struct, frozen=True, kw_only=True):
    """One version reached every member of the group. bytes_sent: of one copy, whatever the number of receivers.

    is_repeat: the version was published before, and now went to receivers that had joined since.
    """

    version: Version
    digest: str
    bytes_sent: int
    seconds: float
    receivers: tuple[str, ...]
    is_repeat: bool = False


class LostReceiversError(BroadcastError):
    """A broadcast or a new group failed for these receivers; form the next group without those that are dead."""

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        super().__init__(message, names)
        self.names = names

    def __str__(self) -> str:
        return str(self.args[0])


class WeightSender:
    """Hosts the store and broadcasts versions to the group of the day. Thread-safe: one form or publish at a time."""

    def __init__(self, host: str, *, backend: Backend = "gloo", deadline_s: float = 60.0, chunk_bytes: int = CHUNK_BYTES) -> None:
        """Host a store on a free port of `host`, an address that every receiver can reach. nccl sends from this thread's GPU."""
        self._host = host
        self._backend: Backend = backend
        self._device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else None
        self._deadline_s = deadline_s
        self._chunk_values = max(1, chunk_bytes // WEIGHT_DTYPE.itemsize)
        self._store = serve(host, deadline_s=deadline_s)
        self._turn = threading.Lock()
        self._epoch = 0
        self._num_events = 0
        self._sequence = 0
        self._members: tuple[str, ...] = ()
        self._group: WeightGroup | None = None
        self._is_broken = True

    @property
    def address(self) -> tuple[str, int]:
        """Where receivers find the store."""
        return self._host, self._store.port

    @property
    def epoch(self) -> int:
        """How often a group was called."""
        return self._epoch

    @property
    def members(self) -> tuple[str, ...]:
        """Receivers of the group of the day, or of the one that broke."""
        return self._members

    @property
    def is_formed(self) -> bool:
        """Whether there is a group to broadcast to."""
        return not self._is_broken

    def signs_of_life(self, names: Sequence[str]) -> dict[str, int]:
        """The count (`alive_key`) of each of these receivers; 0 for one that never came."""
        return {name: self._store.add(alive_key(name), 0) for name in names}

    def full(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of `names` that have as many kept versions as they may."""
        return tuple(name for name in names if self._store.check([key := kept_key(name)]) and int(self._store.get(key)) >= KEPT_MAX)

    def form(self, members: Sequence[str]) -> dict[str, str]:
        """Replace the group by one of these receivers; none is allowed. Returns the content that each of them has.

        Raises LostReceiversError for those that do not join in time.
        """
        with self._turn:
            self._drop_group()
            self._epoch += 1
            self._members = tuple(members)
            joined = self._call()
            if self._members:
                self._build()
            self._is_broken = False
            logger.info("weight group formed: epoch=%d receivers=%d", self._epoch, len(self._members))
            return joined

    def publish(self, version: Version, tensors: Mapping[str, torch.Tensor], *, keep: bool = False, expected: str | None = None) -> BroadcastReport:
        """Bring `tensors` to every receiver of the group and return when each has proved its digest.

        tensors: bf16 in host memory, by checkpoint name. keep: receivers have this version until it is taken, or a newer one; `full` tells who has
        no room for it. expected: the digest, where the caller has it already. Raises LostReceiversError, naming those that are not heard of, or,
        where all are, those that have not received it; then the group is gone and `form` is next.
        """
        with self._turn:
            if self._is_broken:
                raise BroadcastError(f"version {version}: there is no group to broadcast to, form one first")
            started = time.monotonic()
            for name, tensor in tensors.items():
                check_tensor(name, tensor)
            announced = self._announcement(version, tensors, keep=keep, expected=expected)
            bytes_sent = self._send(announced, tensors) if self._group is not None else 0
            return BroadcastReport(
                version=version, digest=announced.digest, bytes_sent=bytes_sent, seconds=time.monotonic() - started, receivers=self._members
            )

    def close(self) -> None:
        """Leave the group. Receivers see the store's end when this object is gone."""
        with self._turn:
            self._drop_group()

    def _call(self) -> dict[str, str]:
        """Call the members; return what each has when all have come."""
        keys = {name: joined_key(self._epoch, name) for name in self._members}
        wait_s = min(self._deadline_s, JOIN_S)
        self._store.set(NEWEST_CALL_KEY, str(self._num_events))
        self._tell(Called(epoch=self._epoch, members=self._members))
        missing = self._wait_for(list(keys.values()), time.monotonic() + wait_s)
        lost = tuple(name for name, key in keys.items() if key in missing)
        if lost:
            raise LostReceiversError(f"epoch {self._epoch}: {', '.join(lost)} did not join within {wait_s:g} s", lost)
        return {name: self._read_once(key) for name, key in keys.items()}

    def _build(self) -> None:
        deadline_s = min(self._deadline_s, BUILD_S)
        self._tell(Formed(epoch=self._epoch, deadline_s=deadline_s))
        try:
            self._group = WeightGroup(
                self._store, epoch=self._epoch, rank=SENDER_RANK, size=1 + len(self._members), address=self._host, backend=self._backend,
                deadline_s=deadline_s, device=self._device,
            )  # fmt: skip
        except BroadcastError as error:
            raise LostReceiversError(str(error), self._members) from error  # any of them may have died since it came

    def _announcement(self, version: Version, tensors: Mapping[str, torch.Tensor], *, keep: bool, expected: str | None) -> Announced:
        self._sequence += 1
        return Announced(
            epoch=self._epoch, sequence=self._sequence, version=str(version), digest=digest(tensors) if expected is None else expected, keep=keep,
            names=tuple(tensors), shapes=tuple(tuple(tensor.shape) for tensor in tensors.values()), chunk_values=self._chunk_values,
            deadline_s=self._deadline_s,
        )  # fmt: skip

    def _send(self, announced: Announced, tensors: Mapping[str, torch.Tensor]) -> int:
        assert self._group is not None
        ends_at = time.monotonic() + self._deadline_s
        self._tell(announced)
        num_bytes = 0
        broken: BroadcastError | None = None
        try:
            for chunk in chunks(list(tensors.values()), self._chunk_values):
                self._group.broadcast(chunk, ends_at=ends_at)
                num_bytes += chunk.numel() * chunk.element_size()
        except BroadcastError as error:
            broken = error
            self._drop_group()  # closes the connections, so that the living stop waiting
            ends_at = time.monotonic() + GRACE_S
        try:
            self._check_answers(announced, self._answers(announced, ends_at), broken)
        except BroadcastError:
            self._drop_group()
            raise
        return num_bytes

    def _answers(self, announced: Announced, ends_at: float) -> dict[str, Answer]:
        """What the members say before `ends_at`, or soon after one of them has said that the group is broken."""
        answers: dict[str, Answer] = {}
        while True:
            for name in self._members:
                if name not in answers and self._store.check([key := answer_key(announced.sequence, name)]):
                    answers[name] = msgspec.json.decode(self._read_once(key), type=Answer)
                    if answers[name].error:
                        self._drop_group()
                        ends_at = min(ends_at, time.monotonic() + GRACE_S)
            if len(answers) == len(self._members) or time.monotonic() > ends_at:
                return answers
            time.sleep(POLL_S)

    def _check_answers(self, announced: Announced, answers: dict[str, Answer], broken: BroadcastError | None) -> None:
        """Raise unless every member answered with the announced digest; where all did, a group that broke has done its work all the same."""
        lost = tuple(name for name in self._members if name not in answers)
        wrong = {name: answer for name, answer in answers.items() if answer.digest != announced.digest}
        said = "; ".join(f"{name}: {answer.error or 'digest ' + answer.digest}" for name, answer in wrong.items())
        if lost:
            reasons = "; ".join(filter(None, (str(broken) if broken else "", said)))
            raise LostReceiversError(f"version {announced.version}: no answer from {', '.join(lost)} ({reasons or 'in time'})", lost) from broken
        if wrong:
            raise LostReceiversError(f"version {announced.version} (digest {announced.digest}) was not received: {said}", tuple(wrong)) from broken

    def _tell(self, event: Event) -> None:
        self._store.set(event_key(self._num_events), msgspec.json.encode(event).decode())
        self._num_events = self._store.add(NUM_EVENTS_KEY, 1)
        self._store.delete_key(event_key(self._num_events - EVENTS_KEPT))

    def _read_once(self, key: str) -> str:
        value = self._store.get(key).decode()
        self._store.delete_key(key)
        return value

    def _wait_for(self, keys: list[str], ends_at: float) -> set[str]:
        """Those of `keys` that are not there when `ends_at` comes."""
        while missing := {key for key in keys if not self._store.check([key])}:
            if time.monotonic() > ends_at:
                break
            time.sleep(POLL_S)
        return missing

    def _drop_group(self) -> None:
        self._is_broken = True
        if self._group is not None:
            self._group.abort()
            self._group = None
