"""Leases: who holds which members, and until when.

Owns lease ids, deadlines and workers of one kind of work (sampling or verifying). Called by the rollout queue; knows no slots and no groups.
A lease ends when its last member is settled, when it expires, or when it is revoked; its id is never given again. Ids carry the queue's
incarnation and count up, so that a gone lease is told from an unknown one without remembering it.
"""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from actors.queue.groups import Member
from actors.queue.records import RefuseReason


class _Live(msgspec.Struct):
    worker: str
    deadline: float
    members: dict[str, Member]
    """Not settled yet, by rollout id."""
    settled: set[str]


class LeaseTable:
    """The live leases of one kind of work."""

    def __init__(self, kind: str, *, incarnation: int, lease_s: float) -> None:
        self.kind = kind
        self._prefix = f"{incarnation}-{kind}-"
        self._lease_s = lease_s
        self._issued = 0
        self._live: dict[str, _Live] = {}  # in the order given, which is that of their deadlines
        self._by_worker: defaultdict[str, set[str]] = defaultdict(set)

    @property
    def issued(self) -> int:
        return self._issued

    def grant(self, members: Mapping[str, Member], *, worker: str, now: float) -> str:
        """Lease `members`, by rollout id, to a worker; returns the lease's id."""
        self._issued += 1
        lease_id = f"{self._prefix}{self._issued}"
        self._live[lease_id] = _Live(worker, now + self._lease_s, dict(members), set())
        self._by_worker[worker].add(lease_id)
        return lease_id

    def find(self, lease_id: str, rollout_id: str) -> Member | RefuseReason:
        """The member that this result settles, or why it settles none."""
        live = self._live.get(lease_id)
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

    def clear(self) -> None:
        """Forget every live lease: whatever comes for them is refused."""
        self._live.clear()
        self._by_worker.clear()

    def _end(self, lease_id: str) -> _Live:
        live = self._live.pop(lease_id)
        of_worker = self._by_worker[live.worker]
        of_worker.discard(lease_id)
        if not of_worker:
            del self._by_worker[live.worker]
        return live

    def _was_issued(self, lease_id: str) -> bool:
        serial = lease_id.removeprefix(self._prefix)
        return lease_id.startswith(self._prefix) and serial.isascii() and serial.isdigit() and 0 < int(serial) <= self._issued
