"""The books of an audit: every entry of a journal, one after the other, and what it does to the ids.

Owns the rules of the contract as an outsider states them: an id is accepted once, consumed once in the lineage that survives, or dropped, or held;
a batch is the same whenever it is handed out; nothing older than the bound trains. Called by `benchmarks.audit`; reads entries, never files.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks.audit_evidence import Spans

MAX_EXAMPLES = 10
TRAINS = ("correct", "wrong", "no_answer", "undecided")
HELD_STATES = ("generated", "verifying", "verified")

Entry = dict[str, Any]


class Findings:
    """Faults by kind: how many, and the first few in words."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, text: str) -> None:
        self._counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(text)

    def count(self, kind: str) -> int:
        return self._counts[kind]

    def examples(self) -> dict[str, tuple[str, ...]]:
        return {kind: tuple(texts) for kind, texts in self._examples.items()}


class AcceptedRollout(msgspec.Struct, frozen=True):
    """What the books keep of an accepted rollout."""

    spans: Spans

    @property
    def oldest_step(self) -> int:
        return min(int(label.partition(".")[2]) for label, _, _ in self.spans)


class Books:
    """Call `read` for every entry in order, then `finish`."""

    def __init__(self, *, max_staleness: int, order: str, exempt: frozenset[str] = frozenset()) -> None:
        """exempt: ids that were cut out of the journal on purpose."""
        self.findings = Findings()
        self.accepted: dict[str, AcceptedRollout] = {}
        self.dropped: dict[str, str] = {}
        self.judged: dict[str, str] = {}
        self.batches: dict[int, tuple[str, ...]] = {}
        """Of the steps that are consumed in the present lineage."""
        self.last_ids: dict[int, tuple[str, ...]] = {}
        """Of every step that was ever handed out."""
        self.handed_out: set[tuple[int, int]] = set()
        self.step = self.reached = self.committed = self.lineage = self.incarnation = self.staleness_max = 0
        self.lost: set[str] = set()
        self.held: set[str] = set()
        """What the books still owe to somebody, lost ids among them: accepted, and neither consumed nor dropped."""
        self.is_finished = False
        self._max_staleness = max_staleness
        self._order = order
        self._exempt = exempt
        self._consumed_in: dict[str, int] = {}
        self._times_consumed: Counter[str] = Counter()
        self._has_begun = False
        self._readers: dict[str, Callable[[str, Entry], None]] = {
            "header": self._header, "accepted": self._accepted, "judged": self._judged, "dropped": self._dropped, "batch": self._batch,
            "leased": self._leased, "rolled_back": self._rolled_back, "committed": self._committed, "snapshot": self._snapshot,
            "closed": self._closed,
        }  # fmt: skip

    @property
    def consumed(self) -> set[str]:
        return {rollout_id for ids in self.batches.values() for rollout_id in ids}

    @property
    def dropped_by_reason(self) -> Counter[str]:
        return Counter(self.dropped.values())

    def read(self, place: str, entry: Entry) -> None:
        """Book one entry; those that touch no accepted rollout pass."""
        reader = self._readers.get(entry["type"])
        if reader is not None:
            reader(place, entry)

    def finish(self) -> None:
        """After the last entry: whoever should have been consumed or dropped by now, and was not, is lost; so is a place trained twice."""
        for rollout_id in sorted(self.held - self.lost):
            if self.is_finished:
                self.lose(rollout_id, "is held by a run that has finished")
            elif self._order == "admission" and step_of(rollout_id) <= self.step:
                self.lose(rollout_id, f"was planned for a step that is trained (the last one is {self.step}), and is in no batch")
        self._count_places()

    def _count_places(self) -> None:
        """A place that trained under two of its ids was consumed twice."""
        trained: dict[str, tuple[int, str]] = {}
        for step, ids in self.batches.items():
            for rollout_id in ids:
                first_step, first_id = trained.setdefault(place_of(rollout_id), (step, rollout_id))
                if first_id != rollout_id:
                    self.findings.add("consumed_twice", f"{first_id} of step {first_step} and {rollout_id} of step {step} are one place")

    def lose(self, rollout_id: str, why: str) -> None:
        """An id that somebody was promised is nowhere; each counts once."""
        if rollout_id not in self.lost:
            self.lost.add(rollout_id)
            self.findings.add("lost", f"{rollout_id} {why}")

    def _header(self, place: str, entry: Entry) -> None:
        if self._has_begun and not 0 <= entry["incarnation"] - self.incarnation <= 1:
            self.findings.add("contract", f"{place}: incarnation {entry['incarnation']} after {self.incarnation}")
        self._has_begun = True
        if entry["lineage"] != self.lineage:
            self.findings.add("contract", f"{place}: a segment of lineage {entry['lineage']} begins in lineage {self.lineage}")
        self.incarnation = max(self.incarnation, entry["incarnation"])
        self.is_finished = False

    def _accepted(self, place: str, entry: Entry) -> None:
        rollout = entry["rollout"]
        spans = tuple((f"{span['version']['lineage']}.{span['version']['step']}", span["start"], span["end"]) for span in rollout["spans"])
        if rollout["id"] in self.accepted:
            self.findings.add("duplicates", f"{place}: {rollout['id']} is accepted again")
        self.accepted[rollout["id"]] = AcceptedRollout(spans)
        self._settle(rollout["id"])

    def _judged(self, place: str, entry: Entry) -> None:
        verdict = entry["verdict"]
        self._require_open(place, verdict["rollout_id"], "is judged")
        if verdict["rollout_id"] in self.judged:
            self.findings.add("contract", f"{place}: {verdict['rollout_id']} is judged again")
        self.judged[verdict["rollout_id"]] = verdict["kind"]

    def _dropped(self, place: str, entry: Entry) -> None:
        rollout_id = entry["rollout_id"]
        self._require_open(place, rollout_id, "is dropped")
        if rollout_id in self._consumed_in:
            self.findings.add("contract", f"{place}: {rollout_id} is dropped, and was in the batch of step {self._consumed_in[rollout_id]}")
        self.dropped[rollout_id] = entry["reason"]
        self._settle(rollout_id)

    def _leased(self, place: str, entry: Entry) -> None:
        if entry["kind"] == "sampling":
            if self.step < self.reached:
                self.findings.add("contract", f"{place}: {entry['lease_id']} is leased at step {self.step}, after a roll-back from {self.reached}")
            for rollout_id in entry["rollout_ids"]:
                if rollout_id in self.accepted:
                    self.findings.add("contract", f"{place}: {rollout_id} is leased to be sampled, and is accepted already")
        else:
            for rollout_id in entry["rollout_ids"]:
                self._require_open(place, rollout_id, "is leased to be judged")

    def _batch(self, place: str, entry: Entry) -> None:
        step, lineage, ids = entry["step"], entry["lineage"], tuple(entry["rollout_ids"])
        if lineage != self.lineage:
            self.findings.add("contract", f"{place}: batch {step} is handed out in lineage {lineage}, the present one is {self.lineage}")
        before = self.last_ids.get(step)
        if before is not None and before != ids:
            self.findings.add("changed_batches", f"{place}: batch {step} has other ids than before")
        if step != self.step + 1 and not (step == self.step and before == ids):
            self.findings.add("contract", f"{place}: batch {step} follows batch {self.step}")
        for rollout_id in ids:
            self._train(place, step, rollout_id)
        self._forget_batch(step)
        self.batches[step] = self.last_ids[step] = ids
        self._times_consumed.update(ids)
        self.held.difference_update(ids)
        self.handed_out.add((step, lineage))
        self.step, self.reached = step, max(self.reached, step)

    def _train(self, place: str, step: int, rollout_id: str) -> None:
        """One member of a batch: consumed here and nowhere else, judged, and young enough."""
        earlier = self._consumed_in.setdefault(rollout_id, step)
        if earlier != step:
            self.findings.add("consumed_twice", f"{place}: {rollout_id} is in the batch of step {step}, and was in that of step {earlier}")
        if rollout_id in self.dropped:
            self.findings.add("contract", f"{place}: {rollout_id} is in batch {step}, and was dropped as {self.dropped[rollout_id]}")
        if rollout_id not in self.accepted:
            self.lose(rollout_id, f"is in batch {step}, and no entry accepts it")
            return
        if self.judged.get(rollout_id) not in TRAINS:
            self.findings.add("contract", f"{place}: {rollout_id} is in batch {step} with the verdict {self.judged.get(rollout_id)}")
        age = step - 1 - self.accepted[rollout_id].oldest_step
        self.staleness_max = max(self.staleness_max, age)
        if not 0 <= age <= self._max_staleness:
            self.findings.add("staleness", f"{place}: {rollout_id} has staleness {age} in step {step}, at most {self._max_staleness} is allowed")

    def _rolled_back(self, place: str, entry: Entry) -> None:
        step, lineage = entry["step"], entry["lineage"]
        if lineage != self.lineage + 1:
            self.findings.add("contract", f"{place}: lineage {lineage} follows {self.lineage}")
        if not self.committed <= step <= self.step:
            self.findings.add("contract", f"{place}: rolled back to step {step}, which is not between {self.committed} (committed) and {self.step}")
        for undone in [known for known in self.batches if known > step]:
            self._forget_batch(undone)
        self.step, self.lineage = step, lineage

    def _forget_batch(self, step: int) -> None:
        """The batch of this step, if there is one, is consumed no more."""
        ids = self.batches.pop(step, ())
        self._times_consumed.subtract(ids)
        for rollout_id in ids:
            self._settle(rollout_id)

    def _settle(self, rollout_id: str) -> None:
        """Whether the id is held, after something happened to it."""
        if rollout_id in self.accepted and rollout_id not in self.dropped and self._times_consumed[rollout_id] <= 0:
            self.held.add(rollout_id)
        else:
            self.held.discard(rollout_id)

    def _committed(self, place: str, entry: Entry) -> None:
        if entry["step"] > self.reached:
            self.findings.add("contract", f"{place}: step {entry['step']} is committed, the last batch is {self.reached}")
        self.committed = max(self.committed, entry["step"])

    def _snapshot(self, place: str, entry: Entry) -> None:
        """The queue's own account at that moment: whoever is owed by the books and not there has been lost inside."""
        known = {member_id(group, number, member) for group in entry["groups"] for number, member in enumerate(group["members"])
                 if member["state"] in HELD_STATES}  # fmt: skip
        owed_later = {rollout_id for batch in entry["batches"] for rollout_id in batch["rollout_ids"]}
        for rollout_id in sorted(self.held - known - owed_later - self.lost):
            self.lose(rollout_id, f"is owed, and the snapshot at {place} does not know it")
        for rollout_id in sorted(known - self.held):
            self.findings.add("contract", f"{place}: the snapshot holds {rollout_id}, which is {self._state_of(rollout_id)}")
        said = (entry["step"], entry["reached"], entry["committed"], entry["lineage"])
        booked = (self.step, self.reached, self.committed, self.lineage)
        if said != booked:
            self.findings.add("contract", f"{place}: the snapshot says step, reached, committed, lineage {said}; the entries come to {booked}")
        for batch in entry["batches"]:
            if self.last_ids.get(batch["step"]) != tuple(batch["rollout_ids"]):
                self.findings.add("changed_batches", f"{place}: the snapshot has other ids in batch {batch['step']}")

    def _closed(self, place: str, entry: Entry) -> None:
        self.is_finished = entry["is_finished"]

    def _require_open(self, place: str, rollout_id: str, what: str) -> None:
        """The id is accepted and not dropped; what is cut on purpose may be unknown."""
        if rollout_id not in self.accepted and rollout_id not in self._exempt:
            self.lose(rollout_id, f"{what} at {place}, and no entry accepts it")
        if rollout_id in self.dropped:
            self.findings.add("contract", f"{place}: {rollout_id} {what}, and was dropped as {self.dropped[rollout_id]}")

    def _state_of(self, rollout_id: str) -> str:
        if rollout_id in self.dropped:
            return f"dropped as {self.dropped[rollout_id]}"
        return f"in batch {self._consumed_in[rollout_id]}" if rollout_id in self._consumed_in else "not accepted"


def step_of(rollout_id: str) -> int:
    """The step that a rollout's group was planned for: ids are step/group/member/attempt."""
    return int(rollout_id.split("/")[0])


def place_of(rollout_id: str) -> str:
    """Step, group and member: what every attempt at one place shares."""
    return rollout_id.rpartition("/")[0]


def member_id(group: Entry, number: int, member: Entry) -> str:
    """The present rollout id of a member of a snapshot."""
    return f"{group['step']:06d}/{group['place']:04d}/{number:04d}/{member['attempt']:02d}"
