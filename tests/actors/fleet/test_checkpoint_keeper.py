"""What of earlier lineages counts."""

from actors.fleet.checkpoint_keeper import surviving
from rlvr.records import Version


def test_versions_that_a_later_lineage_has_made_anew_do_not_survive() -> None:
    starts = [Version(0, 0), Version(1, 10), Version(2, 18)]
    versions = [Version(0, 5), Version(0, 10), Version(0, 15), Version(1, 15), Version(1, 20), Version(2, 20)]
    assert surviving(versions, starts) == [Version(0, 5), Version(0, 10), Version(1, 15), Version(2, 20)]


def test_without_a_roll_back_everything_survives() -> None:
    versions = [Version(0, 0), Version(0, 40)]
    assert surviving(versions, [Version(0, 0)]) == versions
