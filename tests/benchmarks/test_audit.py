"""A checker that cannot fail is worthless: every fault that it looks for is made by hand here and has to be found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from handmade_journals import HandMade, ids_of

from benchmarks.audit import Report, audit
from rlvr.records import VerdictKind


def report_of(run: HandMade, **witnesses: tuple[str, ...]) -> Report:
    return audit(run.folder, run.folder, **witnesses)


@pytest.fixture
def run(tmp_path: Path) -> HandMade:
    """Two trained steps and one that is sampled."""
    run = HandMade(tmp_path)
    run.train(1)
    run.train(2)
    run.accept(ids_of(3), "0.2")
    return run


def test_a_clean_run_is_clean_and_its_ids_add_up(run: HandMade) -> None:
    report = report_of(run)
    assert report.is_clean, report.findings
    assert (report.accepted, report.consumed, report.held, report.lost) == (12, 8, 4, 0)
    assert (report.steps, report.lineages, report.incarnations, report.kept_steps_checked) == (2, 1, 1, 2)


def test_a_clean_run_with_every_kind_of_trouble_is_clean(run: HandMade) -> None:
    run.checkpoint(1)
    run.restart_queue()
    run.judge(ids_of(3))
    run.archive()
    run.roll_back(1)
    run.hand_out(2, "0.1")
    run.hand_out(3, "0.2")
    run.accept(ids_of(4), "1.3")
    run.drop(ids_of(4)[0], "excluded")
    run.accept(ids_of(4, attempt=1)[:1], "1.3")
    run.archive()
    run.snapshot(step=3, held=(ids_of(4, attempt=1)[0], *ids_of(4)[1:]))
    report = report_of(run)
    assert report.is_clean, report.findings
    assert (report.accepted, report.consumed, report.held, report.dropped) == (17, 12, 4, {"excluded": 1})
    assert (report.steps, report.lineages, report.incarnations, report.segments) == (3, 2, 2, 4)


def test_batches_that_wait_to_be_handed_out_again_are_held(run: HandMade) -> None:
    run.roll_back(0)
    run.hand_out(1, "0.0")
    report = report_of(run)
    assert report.is_clean, report.findings
    assert (report.steps, report.consumed, report.held) == (1, 4, 8)


def test_a_rollout_that_its_step_was_trained_without_is_lost(run: HandMade) -> None:
    run.judge(ids_of(3))
    run.batch(3, ids_of(3)[1:])
    report = report_of(run)
    assert report.lost == 1
    assert not report.is_clean


def test_a_rollout_that_a_snapshot_does_not_know_is_lost(run: HandMade) -> None:
    run.snapshot(step=2, held=ids_of(3)[:3])
    assert report_of(run).lost == 1


def test_a_rollout_that_a_finished_run_still_holds_is_lost(run: HandMade) -> None:
    run.entry("closed", is_finished=True)
    assert report_of(run).lost == 4


def test_an_interrupted_run_may_hold(run: HandMade) -> None:
    run.entry("closed", is_finished=False)
    assert report_of(run).is_clean


def test_a_batch_of_a_rollout_that_no_entry_accepts_is_a_loss(tmp_path: Path) -> None:
    run = HandMade(tmp_path)
    run.accept(ids_of(1)[1:], "0.0")
    run.judge(ids_of(1)[1:])
    run.batch(1, ids_of(1))
    assert report_of(run).lost == 1


def test_a_witness_that_is_not_in_the_journal_is_lost(run: HandMade) -> None:
    assert report_of(run, witnesses=ids_of(3)).is_clean
    assert report_of(run, witnesses=(*ids_of(3), ids_of(4)[0])).lost == 1


def test_an_id_that_is_accepted_twice_is_a_duplicate(run: HandMade) -> None:
    run.restart_queue()
    run.accept(ids_of(3)[:1], "0.2")
    report = report_of(run)
    assert (report.duplicates, report.accepted, report.is_clean) == (1, 12, False)


def test_an_id_in_the_batches_of_two_steps_is_consumed_twice(run: HandMade) -> None:
    run.judge(ids_of(3))
    run.batch(3, (*ids_of(3), ids_of(2)[0]))
    assert report_of(run).consumed_twice == 1


def test_a_place_that_trains_under_two_ids_is_consumed_twice(run: HandMade) -> None:
    again = ids_of(3, attempt=1)[:1]
    run.accept(again, "0.2")
    run.judge(ids_of(3) + again)
    run.batch(3, ids_of(3) + again)
    assert report_of(run).consumed_twice == 1


def test_a_step_that_the_learner_trains_twice_in_one_lineage_is_consumed_twice(run: HandMade) -> None:
    run.learner_trains(2, ids_of(2), "0.1")
    assert report_of(run).consumed_twice == 1


def test_the_same_batch_of_the_next_lineage_is_not_consumed_twice(run: HandMade) -> None:
    run.roll_back(1)
    run.hand_out(2, "0.1")
    assert report_of(run).is_clean


@pytest.mark.parametrize("others", [ids_of(2)[1:], tuple(reversed(ids_of(2)))], ids=["other ids", "another order"])
def test_a_batch_that_changes_between_hand_outs_is_found(run: HandMade, others: tuple[str, ...]) -> None:
    run.roll_back(1)
    run.batch(2, others)
    assert report_of(run).changed_batches == 1


def test_a_snapshot_of_a_changed_batch_is_found(run: HandMade) -> None:
    run.entry("snapshot", step=2, reached=2, committed=0, lineage=0, groups=[], batches=[{"step": 2, "rollout_ids": ids_of(1)}])
    assert report_of(run).changed_batches == 1


def test_a_rollout_older_than_the_bound_is_a_staleness_violation(tmp_path: Path) -> None:
    run = HandMade(tmp_path, max_staleness=1)
    for step in (1, 2):
        run.train(step)
    run.train(3, "0.0", "0.2")  # its oldest token counts
    report = report_of(run)
    assert (report.staleness_violations, report.staleness_max) == (4, 2)


def test_a_rollout_of_a_version_that_its_own_step_makes_is_a_staleness_violation(tmp_path: Path) -> None:
    run = HandMade(tmp_path)
    run.train(1, "0.1")
    assert report_of(run).staleness_violations == 4


@pytest.mark.parametrize("fault", ["zombie", "gap", "lease", "committed", "unjudged", "excluded", "dropped", "never handed out", "checkpoint"])
def test_what_the_contract_forbids_is_found(run: HandMade, fault: str) -> None:
    if fault in ("zombie", "lease"):
        run.roll_back(1)
    if fault == "zombie":
        run.lineage = 0
        run.batch(2, ids_of(2))
    elif fault == "gap":
        run.accept(ids_of(4), "0.2")
        run.judge(ids_of(4))
        run.batch(4, ids_of(4))
    elif fault == "lease":
        run.lease(ids_of(4))
    elif fault == "committed":
        run.entry("committed", step=2)
        run.roll_back(1)
    elif fault == "unjudged":
        run.batch(3, ids_of(3))
    elif fault == "excluded":
        run.judge(ids_of(3), VerdictKind.TIMEOUT)
        run.batch(3, ids_of(3))
    elif fault == "dropped":
        run.judge(ids_of(3))
        run.drop(ids_of(3)[0])
        run.batch(3, ids_of(3))
    elif fault == "never handed out":
        run.learner_trains(3, ids_of(3), "0.2")
    else:
        run.checkpoint(3)
    assert report_of(run).contract_violations >= 1


def test_kept_rollouts_that_are_not_the_batch_are_found(run: HandMade) -> None:
    run.judge(ids_of(3))
    run.batch(3, ids_of(3))
    run.learner_trains(3, ids_of(3)[1:], "0.2")
    assert report_of(run).contract_violations == 1


def test_kept_rollouts_of_other_versions_than_were_accepted_are_found(run: HandMade) -> None:
    run.judge(ids_of(3))
    run.batch(3, ids_of(3))
    run.learner_trains(3, ids_of(3), "0.1")
    assert report_of(run).contract_violations == 4


def test_a_torn_tail_is_counted_and_is_no_fault(run: HandMade) -> None:
    frame = run.entry("group", serial=9)
    whole = run.file.read_bytes()
    run.file.write_bytes(whole[:-5])
    report = report_of(run)
    assert report.is_clean, report.findings
    assert report.torn_bytes == len(frame) - 5


def test_a_flipped_bit_before_a_whole_group_commit_is_corruption(run: HandMade) -> None:
    data = bytearray(run.file.read_bytes())
    data[len(data) // 2] ^= 1
    run.file.write_bytes(bytes(data))
    report = report_of(run)
    assert (report.corrupt, report.torn_bytes, report.is_clean) == (1, 0, False)


def test_a_cut_segment_that_is_not_the_newest_is_corruption(run: HandMade) -> None:
    cut = run.file
    run.begin_segment()
    cut.write_bytes(cut.read_bytes()[:-5])
    assert report_of(run).corrupt == 1


def test_a_segment_in_both_places_counts_once(run: HandMade) -> None:
    old = run.file
    run.begin_segment()
    shutil.copy(old, run.folder / "journal" / "archive" / old.name)
    report = report_of(run)
    assert report.is_clean, report.findings
    assert report.segments == 2


def test_a_segment_that_is_gone_is_missed(run: HandMade) -> None:
    run.restart_queue()
    gone = run.file
    run.judge(ids_of(3))
    run.restart_queue()
    run.batch(3, ids_of(3))
    gone.unlink()
    report = report_of(run)
    assert report.missing_segments == 1
    assert not report.is_clean


def test_a_vanished_segment_that_nothing_later_refers_to_is_no_clean_journal(run: HandMade) -> None:
    run.begin_segment()
    gone = run.file
    run.accept(ids_of(4), "0.2")
    run.begin_segment()
    gone.unlink()
    report = report_of(run)
    assert (report.missing_segments, report.lost, report.contract_violations) == (1, 0, 0)
    assert not report.is_clean
    assert report.findings["missing"] == (f"segment {2:08d} is neither in the journal nor in its archive",)


def test_an_incarnation_that_left_no_header_is_found(run: HandMade) -> None:
    run.incarnation += 1
    run.restart_queue()
    report = report_of(run)
    assert (report.missing_segments, report.contract_violations) == (0, 1)


def test_a_journal_whose_oldest_segments_were_removed_may_begin_with_any_incarnation(tmp_path: Path) -> None:
    run = HandMade(tmp_path)
    gone = run.file
    run.incarnation += 1
    run.restart_queue()
    gone.unlink()
    assert report_of(run).is_clean


def test_a_store_without_a_journal_is_not_clean(run: HandMade, tmp_path: Path) -> None:
    report = audit(tmp_path / "nowhere", tmp_path)
    assert (report.segments, report.missing_segments, report.is_clean) == (0, 1, False)


def test_a_commit_beyond_the_oldest_checkpoint_is_found(run: HandMade) -> None:
    for step in (1, 2):
        run.checkpoint(step)
    run.entry("committed", step=1)
    assert report_of(run).is_clean
    run.entry("committed", step=2)  # the newest of those that are kept
    assert report_of(run).contract_violations == 1


def test_what_is_held_is_what_no_batch_has_and_nobody_dropped(run: HandMade) -> None:
    """Counted entry by entry; a roll-back gives the ids of its batches back, once."""
    run.judge(ids_of(3))
    run.batch(3, ids_of(3))
    run.roll_back(1)
    assert report_of(run).held == 8
    run.hand_out(2, "0.1")
    run.drop(ids_of(3)[0])
    report = report_of(run)
    assert (report.held, report.consumed) == (3, 8)


def test_without_a_configuration_nothing_is_audited(run: HandMade) -> None:
    (run.folder / "config.toml").unlink()
    with pytest.raises(FileNotFoundError, match="configuration"):
        report_of(run)


@pytest.mark.processes
def test_the_command_exits_1_where_something_is_lost(run: HandMade) -> None:
    command = [sys.executable, "-m", "benchmarks.audit", str(run.folder)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    run.entry("closed", is_finished=True)
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1
