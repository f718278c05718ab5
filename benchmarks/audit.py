"""The independent checker: what a run's journal, checkpoints, metrics and kept rollouts say about every accepted rollout.

Owns the verdict over durability and nothing of the run: it shares no code with the queue, follows the lineage that survives, and counts ids.
`python -m benchmarks.audit STORE [RUN_DIR]` prints the report as one line of JSON and exits 1 unless it is clean. Called by the chaos run.

What it cannot see: a rollout that was acknowledged and is on no disk, was never trained and never seen from outside. Generators keep no log of
their own; `witnesses` (ids that somebody saw in the journal while the run went on) and rollouts/ (what the learner was given) stand in for one.
"""

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path

import msgspec

from benchmarks.audit_books import Books, Findings
from benchmarks.audit_evidence import Evidence, read_evidence
from benchmarks.audit_journal import Journal, read_journal

JOURNAL = "journal"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of an audit; `findings` has up to ten places for each kind of fault."""

    accepted: int
    """Distinct ids."""
    consumed: int
    """Distinct ids of batches in the lineage that survives."""
    dropped: dict[str, int]
    held: int
    """Neither consumed nor dropped, and still to be trained."""
    lost: int
    """Accepted, and neither consumed nor dropped nor held: what is missing in a step that was handed out, in a snapshot, in a run that finished."""
    duplicates: int
    """Ids that were accepted twice."""
    consumed_twice: int
    """Ids in batches of two steps, places trained under two ids, and steps trained twice in one lineage."""
    changed_batches: int
    """Batches whose ids were others when they were handed out again."""
    staleness_violations: int
    staleness_max: int
    contract_violations: int
    """Everything else that the contract forbids: `findings` names it."""
    steps: int
    """The last step that was handed out in the lineage that survives."""
    lineages: int
    incarnations: int
    segments: int
    missing_segments: int
    """Numbers between two segments that nobody has, or one where no segment is there at all.

    A queue that dies before the first header of its segment is whole leaves such a number too, between two incarnations; the audit cannot tell.
    """
    torn_bytes: int
    corrupt: int
    witnesses: int
    kept_steps_checked: int
    """Steps whose kept rollouts were compared with their batch."""
    findings: dict[str, tuple[str, ...]]

    @property
    def is_clean(self) -> bool:
        faults = (self.lost, self.duplicates, self.consumed_twice, self.changed_batches, self.staleness_violations, self.contract_violations)
        return not any(faults) and not self.corrupt and not self.missing_segments


def audit(store: Path, run: Path, *, witnesses: Collection[str] = ()) -> Report:
    """Read everything that the run has left and count. witnesses: ids of rollouts that were in the journal at some time of the run."""
    journal = read_journal(store / JOURNAL)
    evidence = read_evidence(store, run)
    books = Books(max_staleness=evidence.max_staleness, order=evidence.order, exempt=evidence.cut_ids)
    for place, entry in journal.entries():
        books.read(place, entry)
    books.finish()
    findings = books.findings
    for text in journal.corrupt:
        findings.add("corrupt", text)
    for number in journal.missing:
        findings.add("missing", f"segment {number:08d} is neither in the journal nor in its archive")
    if not journal.segments:
        findings.add("missing", f"{store / JOURNAL} has no segment: there is no run to audit")
    for rollout_id in witnesses:
        if rollout_id not in books.accepted and rollout_id not in evidence.cut_ids:
            books.lose(rollout_id, "was in the journal once and is not any more")
    checked = compare_trained(books, evidence, findings)
    return _report(journal, books, findings, witnesses=len(witnesses), checked=checked)


def compare_trained(books: Books, evidence: Evidence, findings: Findings) -> int:
    """What the learner trained against what the journal says it was handed; returns the number of steps compared."""
    for step, lineage in evidence.trained_twice:
        findings.add("consumed_twice", f"step {step} was trained twice in lineage {lineage}")
    for step, lineage in evidence.trained:
        if (step, lineage) not in books.handed_out:
            findings.add("contract", f"step {step} was trained in lineage {lineage}, which never handed it out")
    for step, spans in evidence.kept.items():
        batch = books.last_ids.get(step)
        if batch is None or sorted(batch) != sorted(spans):
            findings.add("contract", f"the kept rollouts of step {step} are not those of its batch")
            continue
        for rollout_id, versions in spans.items():
            if books.accepted[rollout_id].spans != versions:
                findings.add("contract", f"{rollout_id} was trained with versions {versions}, accepted with {books.accepted[rollout_id].spans}")
    for step in evidence.checkpoints:
        if step > books.reached:
            findings.add("contract", f"there is a checkpoint of step {step}, whose batch the journal has never handed out")
    if evidence.checkpoints and books.committed > min(evidence.checkpoints):
        oldest = min(evidence.checkpoints)
        findings.add(
            "contract", f"step {books.committed} is committed, and the oldest checkpoint, from which a run may have to go on, is of {oldest}"
        )
    return len(evidence.kept)


def _report(journal: Journal, books: Books, findings: Findings, *, witnesses: int, checked: int) -> Report:
    return Report(
        accepted=len(books.accepted),
        consumed=len(books.consumed),
        dropped=dict(books.dropped_by_reason),
        held=len(books.held - books.lost),
        lost=len(books.lost),
        duplicates=findings.count("duplicates"),
        consumed_twice=findings.count("consumed_twice"),
        changed_batches=findings.count("changed_batches"),
        staleness_violations=findings.count("staleness"),
        staleness_max=books.staleness_max,
        contract_violations=findings.count("contract"),
        steps=books.step,
        lineages=books.lineage + 1,
        incarnations=books.incarnation + 1,
        segments=len(journal.segments),
        missing_segments=findings.count("missing"),
        torn_bytes=journal.torn_bytes,
        corrupt=findings.count("corrupt"),
        witnesses=witnesses,
        kept_steps_checked=checked,
        findings=findings.examples(),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Audit a run from its journal, checkpoints and kept rollouts.")
    parser.add_argument("store", type=Path, help="the folder that holds journal/ and checkpoints/")
    parser.add_argument("run", type=Path, nargs="?", help="the run folder, where the store is another one")
    words = parser.parse_args()
    report = audit(words.store, words.run or words.store)
    print(json.dumps({**msgspec.to_builtins(report), "is_clean": report.is_clean}))
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
