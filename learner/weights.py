"""Policy weights on their way out: the digest, the announcements, and the sender that broadcasts each version.

Owns the store through which both ends speak (`learner.weight_protocol`) and the group of the day. A version that one receiver cannot prove breaks the
group; the next one is formed without the dead. The learner's rank 0 calls the sender; the other end is `learner.weight_receiver`. Knows torch;
no Ray, no vLLM.
"""

import contextlib
import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import torch
from torch import distributed

from learner.weight_group import SENDER_RANK, Backend, WeightGroup, seconds
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
    answer_key,
    event_key,
    joined_key,
    kept_key,
)
from rlvr.errors import BroadcastError
from rlvr.records import Version

logger = logging.getLogger(__name__)

WEIGHT_DTYPE = torch.bfloat16
CHUNK_BYTES = 64 * 2**20
GRACE_S = 1.0
"""After a broken broadcast: how long the living have to say so, which tells them from the dead."""
PATIENCE_S = 4 * 3600.0
"""How long a kept version waits for room at its receivers: longer than the evaluations that are in its way, and yet an end."""


class BroadcastReport(msgspec.Struct, frozen=True, kw_only=True):
    """One version reached every receiver. bytes_sent: of one copy, whatever the number of receivers."""

    version: Version
    digest: str
    bytes_sent: int
    seconds: float
    num_receivers: int


class LostReceiversError(BroadcastError):
    """A broadcast or a new group failed for these receivers; form the next group without those that are dead."""

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        super().__init__(message, names)
        self.names = names

    def __str__(self) -> str:
        return str(self.args[0])


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """BLAKE2b over names, shapes and bf16 bits, whatever the order of the mapping. Tensors: bf16, in host memory."""
    whole = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        check_tensor(name, tensor)
        bits = tensor.detach().contiguous().reshape(-1).view(torch.int16).numpy()
        whole.update(repr((name, tuple(tensor.shape))).encode())
        whole.update(hashlib.blake2b(bits.data, digest_size=16).digest())
    return whole.hexdigest()


def check_tensor(name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError unless `tensor` can be published."""
    if tensor.dtype is not WEIGHT_DTYPE or tensor.device.type != "cpu":
        raise ValueError(f"{name}: published weights are bfloat16 in host memory, got {tensor.dtype} on {tensor.device}")


class WeightSender:
    """Hosts the store and broadcasts versions to the group of the day. Thread-safe: one form or publish at a time."""

    def __init__(
        self,
        host: str,
        *,
        backend: Backend = "gloo",
        deadline_s: float = 60.0,
        chunk_bytes: int = CHUNK_BYTES,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Host a store on a free port of `host`, an address that every receiver can reach. nccl sends from this thread's GPU."""
        self._host = host
        self._backend: Backend = backend
        self._device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else None
        self._deadline_s = deadline_s
        self._patience_s = patience_s
        self._chunk_values = max(1, chunk_bytes // WEIGHT_DTYPE.itemsize)
        self._store = distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=seconds(deadline_s))
        self._turn = threading.Lock()
        self._epoch = 0
        self._num_events = 0
        self._sequence = 0
        self._members: tuple[str, ...] = ()
        self._group: WeightGroup | None = None
        self._is_broken = False

    @property
    def address(self) -> tuple[str, int]:
        """Where receivers find the store."""
        return self._host, self._store.port

    def form(self, members: Sequence[str]) -> None:
        """Replace the group by one of these receivers; none is allowed. Raises LostReceiversError for those that do not join before the deadline."""
        with self._turn:
            self._drop_group()
            self._epoch += 1
            self._members = tuple(members)
            self._is_broken = True
            ends_at = time.monotonic() + self._deadline_s
            self._store.set(NEWEST_CALL_KEY, str(self._num_events))
            self._tell(Called(epoch=self._epoch, members=self._members))
            missing = self._wait_for([joined_key(self._epoch, name) for name in self._members], ends_at)
            if missing:
                lost = tuple(name for name in self._members if joined_key(self._epoch, name) in missing)
                raise LostReceiversError(f"epoch {self._epoch}: {', '.join(lost)} did not join within {self._deadline_s:g} s", lost)
            if self._members:
                self._tell(Formed(epoch=self._epoch))
                self._group = WeightGroup(
                    self._store, epoch=self._epoch, rank=SENDER_RANK, size=1 + len(self._members), address=self._host, backend=self._backend,
                    deadline_s=max(ends_at - time.monotonic(), GRACE_S), device=self._device,
                )  # fmt: skip
            self._is_broken = False
            logger.info("weight group formed: epoch=%d receivers=%d", self._epoch, len(self._members))

    def publish(self, version: Version, tensors: Mapping[str, torch.Tensor], *, keep: bool = False, expected: str | None = None) -> BroadcastReport:
        """Bring `tensors` to every receiver of the group and return when each has proved its digest.

        tensors: bf16 in host memory, by checkpoint name. keep: receivers have this version until it is taken, or a newer one; where one of them
        has KEPT_MAX of that kind already, this call first waits for room, during which another group may be formed. expected: the digest, where the
        caller has it already. Raises LostReceiversError, naming them, or BroadcastError; then the group is gone and `form` is next, unless it
        was for want of room.
        """
        with self._turn_with_room(version) if keep else self._turn:
            if self._is_broken or not self._epoch:
                raise BroadcastError(f"version {version}: there is no group to broadcast to, form one first")
            started = time.monotonic()
            for name, tensor in tensors.items():
                check_tensor(name, tensor)
            announced = self._announcement(version, tensors, keep=keep, expected=expected)
            bytes_sent = 0
            if self._group is not None:
                try:
                    bytes_sent = self._send(announced, tensors)
                except BroadcastError:
                    self._drop_group()
                    self._is_broken = True
                    raise
            return BroadcastReport(
                version=version, digest=announced.digest, bytes_sent=bytes_sent, seconds=time.monotonic() - started, num_receivers=len(self._members)
            )

    def close(self) -> None:
        """Leave the group. Receivers see the store's end when this object is gone."""
        with self._turn:
            self._drop_group()
            self._is_broken = True

    @contextlib.contextmanager
    def _turn_with_room(self, version: Version) -> Iterator[None]:
        """The turn at a moment at which every member has room for one more kept version. Raises BroadcastError when patience ends."""
        ends_at = time.monotonic() + self._patience_s
        has_warned = False
        while True:
            with self._turn:
                full = self._full_members()
                if not full:
                    yield
                    return
            if time.monotonic() > ends_at:
                raise BroadcastError(
                    f"version {version}: for {self._patience_s:g} s no room at {', '.join(full)}, which keeps {KEPT_MAX} versions "
                    "that nobody has evaluated; evaluate less, or less often"
                )
            if not has_warned:
                logger.warning(
                    "version=%s waits for evaluations at %s, which take longer than the steps between them; evaluate less, or less often",
                    version, ", ".join(full),
                )  # fmt: skip
                has_warned = True
            time.sleep(POLL_S)

    def _full_members(self) -> tuple[str, ...]:
        """Those of the group that have as many kept versions as they may."""
        members = self._members if self._group is not None else ()
        return tuple(name for name in members if self._store.check([key := kept_key(name)]) and int(self._store.get(key)) >= KEPT_MAX)

    def _announcement(self, version: Version, tensors: Mapping[str, torch.Tensor], *, keep: bool, expected: str | None) -> Announced:
        self._sequence += 1
        return Announced(
            epoch=self._epoch, sequence=self._sequence, version=str(version), digest=digest(tensors) if expected is None else expected, keep=keep,
            names=tuple(tensors), shapes=tuple(tuple(tensor.shape) for tensor in tensors.values()), chunk_values=self._chunk_values,
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
        self._check_answers(announced, ends_at, broken)
        return num_bytes

    def _check_answers(self, announced: Announced, ends_at: float, broken: BroadcastError | None) -> None:
        """Raise unless every member answered with the announced digest."""
        keys = {name: answer_key(announced.sequence, name) for name in self._members}
        missing = self._wait_for(list(keys.values()), ends_at)
        lost = tuple(name for name, key in keys.items() if key in missing)
        if lost:
            reason = f" ({broken})" if broken else ""
            raise LostReceiversError(f"version {announced.version}: no answer from {', '.join(lost)}{reason}", lost) from broken
        answers = {name: msgspec.json.decode(self._store.get(key), type=Answer) for name, key in keys.items()}
        for key in keys.values():
            self._store.delete_key(key)
        wrong = {name: answer for name, answer in answers.items() if answer.digest != announced.digest}
        if wrong:
            said = "; ".join(f"{name}: {answer.error or 'digest ' + answer.digest}" for name, answer in wrong.items())
            raise LostReceiversError(f"version {announced.version} (digest {announced.digest}) was not received: {said}", tuple(wrong)) from broken
        if broken:
            raise broken

    def _tell(self, event: Event) -> None:
        self._store.set(event_key(self._num_events), msgspec.json.encode(event).decode())
        self._num_events = self._store.add(NUM_EVENTS_KEY, 1)
        self._store.delete_key(event_key(self._num_events - EVENTS_KEPT))

    def _wait_for(self, keys: list[str], ends_at: float) -> set[str]:
        """Those of `keys` that are not there when `ends_at` comes."""
        try:
            if keys:
                self._store.wait(keys, seconds(ends_at - time.monotonic()))
        except distributed.DistStoreError:
            return {key for key in keys if not self._store.check([key])}
        return set()

    def _drop_group(self) -> None:
        if self._group is not None:
            self._group.abort()
            self._group = None


def chunks(tensors: Sequence[torch.Tensor], chunk_values: int) -> Iterator[torch.Tensor]:
    """The flat run of all values in pieces of `chunk_values`, the last one shorter; one buffer is used again and again."""
    buffer = torch.empty(min(chunk_values, sum(tensor.numel() for tensor in tensors)), dtype=WEIGHT_DTYPE)
    filled = 0
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        start = 0
        while start < flat.numel():
            count = min(buffer.numel() - filled, flat.numel() - start)
            buffer[filled : filled + count] = flat[start : start + count]
            filled, start = filled + count, start + count
            if filled == buffer.numel():
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def views(flat: torch.Tensor, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The tensors that lie one after the other in `flat`, without a copy."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    starts = itertools.accumulate(sizes, initial=0)
    return {name: flat[start : start + size].view(shape) for name, shape, size, start in zip(names, shapes, sizes, starts, strict=False)}
