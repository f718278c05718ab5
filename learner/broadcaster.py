"""Publication in the background, to whoever lives: version k travels to the generators while step k + 1 already waits for its batch.

Owns one thread, which alone drives the sender, and three rules. The group is always one of all receivers that are wanted and show life; whenever
these are others, the next epoch is formed at once. A version that lost receivers on its way is sent again to the living; those who have it already
stage nothing. Whoever is in the group and has not the newest version gets it. So a dead or hung receiver costs one deadline, and one that comes, or
comes back, waits for no step. Called by the learner; knows no Ray, no vLLM.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
from torch import Tensor

from learner.weight_codec import check_tensor, digest
from learner.weight_protocol import KEPT_MAX, LIFE_S, STAY, content
from learner.weight_roll import Roll
from learner.weights import BroadcastReport, LostReceiversError, WeightSender
from rlvr.errors import BroadcastError
from rlvr.records import Version

logger = logging.getLogger(__name__)

REST_S = 0.05
"""Between two looks at who lives."""
SETTLE_S = 2 * LIFE_S
"""How long the next epoch waits for wanted receivers that have not shown life yet: those that live do so meanwhile, and one epoch serves all."""
PATIENCE_S = 4 * 3600.0
"""How long a kept version waits for room at its receivers: longer than the evaluations that are in its way, and yet an end."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """A new epoch. lost: wanted receivers of an earlier epoch that are not in this one. seconds: to form it, from the call to the built group."""

    epoch: int
    members: tuple[str, ...]
    lost: tuple[str, ...]
    seconds: float


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A version on its way, and from then on what joiners get until there is a newer one."""

    version: Version
    tensors: Mapping[str, Tensor]
    digest: str
    keep: bool

    @property
    def content(self) -> str:
        return content(str(self.version), self.digest)


class Broadcaster:
    """Sends versions one after the other, in the order in which they were given, to receivers that come and go.

    `announce`, `changed` and `log` are called in its thread. `log` gets each version once, when it was broadcast and before it is announced; while it
    writes, nobody joins. What `log` and `announce` raise, and a kept version that found no room, is raised at the next `publish` or `finish`.
    """

    def __init__(
        self,
        sender: WeightSender,
        *,
        announce: Callable[[BroadcastReport], None],
        changed: Callable[[Membership], None],
        log: Callable[[Version, Mapping[str, Tensor], str, bool], None] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._sender = sender
        self._announce = announce
        self._changed = changed
        self._log = log
        self._patience_s = patience_s
        self._condition = threading.Condition()  # guards the five fields that follow
        self._wanted: tuple[str, ...] = ()
        self._settles_at = 0.0
        self._given: tuple[Version, Mapping[str, Tensor], bool] | None = None
        self._error: BaseException | None = None
        self._is_closing = False
        self._roll = Roll()
        self._lost: set[str] = set()
        self._formed: dict[str, int] = {}  # members of the group of the day, each with its stay
        self._held: dict[str, str] = {}
        self._pending: Publication | None = None
        self._newest: Publication | None = None
        self._no_room_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="broadcast", daemon=True)
        self._thread.start()

    def set_members(self, receivers: Sequence[str]) -> None:
        """Want these receivers from now on, whether they have come or not, and no others. From any thread; returns at once."""
        with self._condition:
            if set(receivers) != set(self._wanted):
                self._wanted = tuple(dict.fromkeys(receivers))
                self._settles_at = time.monotonic() + SETTLE_S
                self._condition.notify_all()

    def publish(self, version: Version, tensors: Mapping[str, Tensor], *, keep: bool) -> None:
        """Start to send `tensors`, bf16 on the CPU, which nobody changes any more; waits for the version before it.

        Raises what that one met, ValueError for tensors that are no published weights, BroadcastError after `close`.
        """
        for name, tensor in tensors.items():
            check_tensor(name, tensor)
        self.finish()
        with self._condition:
            self._check_open()
            self._given = (version, tensors, keep)
            self._condition.notify_all()

    def finish(self) -> None:
        """Wait until every version given so far has reached all living receivers. Raises what one of them met, BroadcastError after `close`."""
        with self._condition:
            while self._given is not None and self._error is None:
                self._check_open()
                self._condition.wait()
            if self._error is not None:
                error, self._error = self._error, None
                raise error

    def close(self) -> None:
        """End the thread and every wait; a version under way has its own deadline."""
        with self._condition:
            self._is_closing = True
            self._condition.notify_all()
        self._thread.join()

    def _check_open(self) -> None:
        if self._is_closing or not self._thread.is_alive():
            raise BroadcastError("the broadcaster is closed")

    def _run(self) -> None:
        try:
            while not self._is_closing:
                if not self._keep_group():
                    continue
                due = self._due()
                if due is None:
                    self._rest(unless_given=True)
                elif not self._has_room(due):
                    self._rest()
                else:
                    self._send(due)
        except Exception as error:  # noqa: BLE001 - the thread's outermost frame: raised by the next `publish` or `finish`
            logger.warning("no weights are broadcast any more: %s", error)
            with self._condition:
                self._error = error
                self._is_closing = True
                self._condition.notify_all()

    def _keep_group(self) -> bool:
        """Whether there is a group of all that are wanted and live; forms it where it is another one."""
        now = time.monotonic()
        with self._condition:
            wanted, settles_at = self._wanted, self._settles_at
        counts = self._sender.signs_of_life(wanted)
        ready = {name: counts[name] // STAY for name in self._roll.look(counts, now)}
        self._lost |= set(self._held) & (set(wanted) - set(ready))
        if self._sender.is_formed and ready == self._formed:
            return True
        if now < settles_at and len(ready) < len(wanted):
            self._rest()
            return False
        return self._form(ready, wanted)

    def _form(self, ready: dict[str, int], wanted: tuple[str, ...]) -> bool:
        started = time.monotonic()
        try:
            self._held = self._sender.form(tuple(ready))
            self._formed = ready
        except LostReceiversError as error:
            self._lose(error)
            return False
        lost = tuple(sorted((self._lost & set(wanted)) - set(ready)))
        self._lost.clear()
        self._changed(Membership(epoch=self._sender.epoch, members=tuple(ready), lost=lost, seconds=time.monotonic() - started))
        return True

    def _lose(self, error: LostReceiversError) -> None:
        """Leave these out until they show life again; give them the time to do so where they live."""
        logger.warning("receivers lost, the next group is formed without those that are dead: %s", error)
        self._lost.update(error.names)
        now = time.monotonic()
        with self._condition:
            wanted = self._wanted
            self._settles_at = now + SETTLE_S
        self._roll.look(self._sender.signs_of_life(wanted), now)  # what they showed before they were lost is no fresh life
        for name in error.names:
            self._roll.lose(name, now)

    def _due(self) -> Publication | None:
        """What to send next: the version that was given, else the newest one where a member has it not."""
        with self._condition:
            given = self._given
        if self._pending is None and given is not None:
            version, tensors, keep = given
            self._pending = Publication(version=version, tensors=tensors, digest=digest(tensors), keep=keep)
        if self._pending is not None:
            return self._pending
        return self._newest if self._newest is not None and self._lacking(self._newest) else None

    def _lacking(self, publication: Publication) -> tuple[str, ...]:
        return tuple(name for name, held in self._held.items() if held != publication.content)

    def _has_room(self, publication: Publication) -> bool:
        """Whether those that lack a kept version may keep one more."""
        full = self._sender.full(self._lacking(publication)) if publication.keep else ()
        now = time.monotonic()
        if not full:
            self._no_room_since = None
            return True
        if self._no_room_since is None:
            self._no_room_since = now
            logger.warning(
                "version=%s waits for evaluations at %s, which take longer than the steps between them; evaluate less, or less often",
                publication.version, ", ".join(full),
            )  # fmt: skip
        elif now - self._no_room_since > self._patience_s and publication is self._pending:
            self._end_pending(
                BroadcastError(
                    f"version {publication.version}: for {self._patience_s:g} s no room at {', '.join(full)}, which keeps {KEPT_MAX} versions "
                    "that nobody has evaluated; evaluate less, or less often"
                )
            )
        return False

    def _send(self, publication: Publication) -> None:
        try:
            report = self._sender.publish(publication.version, publication.tensors, keep=publication.keep, expected=publication.digest)
        except LostReceiversError as error:
            self._lose(error)
            return
        self._held = dict.fromkeys(report.receivers, publication.content)
        for name in report.receivers:
            self._roll.prove(name)
        if publication is self._pending:
            self._newest = publication
            self._end_pending(self._told(publication, report))
        else:
            self._announce(msgspec.structs.replace(report, is_repeat=True))

    def _told(self, publication: Publication, report: BroadcastReport) -> Exception | None:
        """Log and announce; what that met."""
        try:
            if self._log is not None:
                self._log(publication.version, publication.tensors, publication.digest, publication.keep)
            self._announce(report)
        except Exception as error:  # noqa: BLE001 - raised by the next `publish` or `finish`
            return error
        return None

    def _end_pending(self, error: Exception | None) -> None:
        self._pending = None
        self._no_room_since = None
        with self._condition:
            self._given = None
            self._error = error
            self._condition.notify_all()

    def _rest(self, *, unless_given: bool = False) -> None:
        with self._condition:
            if not self._is_closing and not (unless_given and self._given is not None):
                self._condition.wait(REST_S)
