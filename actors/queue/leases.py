"""Leases: who holds which members, and until when.

Owns lease ids, deadlines and workers of one kind of work (sampling or verifying). Called by the rollout queue; knows no slots and no groups.
A lease ends when its last member is settled, when it expires, or when it is revoked; its id is never given again. Ids carry the queue's
incarnation and count up in each, so that a gone lease is told from an unknown one without remembering it. A restarted queue takes the live leases
of the incarnations before it over, with fresh deadlines.
"""

import itertools
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from actors.journal.entries import LeaseFacts
from actors.queue.groups import Member
from actors.queue.records import LeaseStatus, RefuseReason

NUM_REMEMBERED = 1024
"""Leases that ended last: what they settled is known, for a hand-in whose answer was lost and that is made again."""


class _Live(msgspec.Struct):
    worker: str
    given: float
    deadline: float
    members: dict[str, Member]
    """Not settled yet, by rollout id."""
    settled: set[str]


class LeaseTable:
    """The live leases of one kind of work."""

    def __init__(self, kind: str, *, incarnation: int, lease_s: float) -> None:
        self.kind = kind
        self._incarnation = incarnation
        self._lease_s = lease_s
        self._issued: Counter[int] = Counter()  # by incarnation
        self._live: dict[str, _Live] = {}  # in the order given, which is that of their deadlines
        self._by_worker: defaultdict[str, set[str]] = defaultdict(set)
        self._settled: OrderedDict[str, set[str]] = OrderedDict()  # rollout ids, by lease that has ended

    @property
    def issued(self) -> int:
        """Leases given, by all incarnations."""
        return sum(self._issued.values())

    def next_id(self) -> str:
        """The id of the next lease that this incarnation gives."""
        return f"{self._incarnation}-{self.kind}-{self._issued[self._incarnation] + 1}"

    def grant(self, lease_id: str, members: Mapping[str, Member], *, worker: str, now: float) -> None:
        """Lease `members`, by rollout id, to a worker."""
        incarnation, serial = self._parse(lease_id)
        self._issued[incarnation] = serial
        self._add(lease_id, _Live(worker, now, now + self._lease_s, dict(members), set()))

    def is_live(self, lease_id: str) -> bool:
        return lease_id in self._live

    def members(self, lease_id: str) -> Mapping[str, Member]:
        """The members that a live lease has not settled, by rollout id; none where it is not live."""
        return dict(self._live[lease_id].members) if lease_id in self._live else {}

    def find(self, lease_id: str, rollout_id: str) -> Member | RefuseReason:
        """The member that this result settles, or why it settles none."""
        live = self._live.get(lease_id)
        if live is None and rollout_id in self._settled.get(lease_id, ()):
            return RefuseReason.DUPLICATE
        if live is None:
            return RefuseReason.GONE_LEASE if self._was_issued(lease_id) else RefuseReason.UNKNOWN_LEASE
        if rollout_id in live.settled:
            return RefuseReason.DUPLICATE
        return live.members.get(rollout_id, RefuseReason.NOT_LEASED)

    def settle(self, lease_id: str, rollout_id: str) -> None:
        """The member's work is done, or refused for good; the lease ends with its last one."""
        live = self._live[lease_id]
        del live.members[rollout_id]
        live.settled.add(rollout_id)
        if not live.members:
            self._end(lease_id)

    def revoke(self, lease_id: str) -> Sequence[Member]:
        """End a lease; returns the members that it leaves unsettled, none where it is not live."""
        return tuple(self._end(lease_id).members.values()) if lease_id in self._live else ()

    def of_worker(self, worker: str) -> Sequence[str]:
        return sorted(self._by_worker.get(worker, ()))

    def expired(self, now: float) -> Sequence[str]:
        """Live leases whose deadline has passed."""
        return [lease_id for lease_id, _ in itertools.takewhile(lambda entry: entry[1].deadline <= now, self._live.items())]

    def outstanding(self) -> int:
        """Members under a live lease."""
        return sum(len(live.members) for live in self._live.values())

    def live(self) -> Sequence[str]:
        """The live leases, in the order given."""
        return list(self._live)

    def workers(self) -> Iterable[str]:
        """Who holds a live lease."""
        return list(self._by_worker)

    def status(self, now: float) -> Sequence[LeaseStatus]:
        """The live leases as `status` shows them."""
        return [
            LeaseStatus(id=lease_id, kind=self.kind, worker=live.worker, members=len(live.members), age_s=now - live.given)
            for lease_id, live in self._live.items()
        ]

    # --- a snapshot

    def facts(self) -> Sequence[LeaseFacts]:
        return [
            LeaseFacts(lease_id=id_, kind=self.kind, worker=live.worker, rollout_ids=tuple(live.members), settled=tuple(sorted(live.settled)))
            for id_, live in self._live.items()
        ]

    def issued_facts(self) -> Mapping[str, int]:
        """Leases given, by `incarnation-kind`."""
        return {f"{incarnation}-{self.kind}": serial for incarnation, serial in self._issued.items()}

    def restore(self, facts: Sequence[LeaseFacts], issued: Mapping[str, int], members: Mapping[str, Member], *, now: float) -> None:
        """The leases of a snapshot, with fresh deadlines; members: of all leases, by rollout id."""
        for key, serial in issued.items():
            incarnation, _, kind = key.partition("-")
            if kind == self.kind:
                self._issued[int(incarnation)] = serial
        for of_one in facts:
            if of_one.kind == self.kind:
                held = {rollout_id: members[rollout_id] for rollout_id in of_one.rollout_ids}
                self._add(of_one.lease_id, _Live(of_one.worker, now, now + self._lease_s, held, set(of_one.settled)))

    def _end(self, lease_id: str) -> _Live:
        live = self._live.pop(lease_id)
        of_worker = self._by_worker[live.worker]
        of_worker.discard(lease_id)
        if not of_worker:
            del self._by_worker[live.worker]
        self._settled[lease_id] = live.settled
        if len(self._settled) > NUM_REMEMBERED:
            self._settled.popitem(last=False)
        return live

    def _add(self, lease_id: str, live: _Live) -> None:
        self._live[lease_id] = live
        self._by_worker[live.worker].add(lease_id)

    def _was_issued(self, lease_id: str) -> bool:
        incarnation, serial = self._parse(lease_id)
        return 0 < serial <= self._issued[incarnation]

    def _parse(self, lease_id: str) -> tuple[int, int]:
        """Incarnation and serial of a lease of this kind; (-1, 0) where it is none."""
        match lease_id.split("-"):
            case [incarnation, self.kind, serial] if incarnation.isascii() and incarnation.isdigit() and serial.isascii() and serial.isdigit():
                return int(incarnation), int(serial)
        return -1, 0
