"""Laws of the run folder: refused before anything is written, never overwritten, bounded, readable while it is written."""

from pathlib import Path

import pytest

from actors.run_folder import EVENTS, RunFolder, check_can_create, default_path
from rlvr.config import Config, RunConfig
from rlvr.config_file import load_config
from rlvr.errors import UserError


def test_a_run_folder_that_exists_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        RunFolder.create(tmp_path / "run", Config())
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["notes"]


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        check_can_create(tmp_path / "file" / "run")


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.run_folder.MIN_FREE_BYTES", 2**80)
    with pytest.raises(UserError, match="MiB free"):
        check_can_create(tmp_path / "run")


def test_the_written_configuration_is_the_resolved_one(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    assert load_config(folder.path / "config.toml").optimizer == Config().optimizer


def test_a_line_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    folder.event("started", step=1)
    with (folder.path / EVENTS).open("a") as file:
        file.write('{"event": "half')
    assert [event["event"] for event in folder.read(EVENTS)] == ["started"]


def test_rollouts_are_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    removed = [folder.write_rollouts(step, b"x" * 100, keep_bytes=250) for step in (1, 2, 3, 4)]
    assert removed == [0, 0, 1, 1]
    assert [step for step, _ in folder.rollout_files()] == [3, 4]


def test_the_newest_rollouts_are_kept_even_where_they_alone_are_too_many(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    folder.write_rollouts(1, b"x" * 100, keep_bytes=10)
    assert [step for step, _ in folder.rollout_files()] == [1]


def test_with_a_store_the_checkpoints_go_into_a_folder_of_the_runs_name_there(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config(run=RunConfig(store=str(tmp_path / "store"))))
    assert folder.checkpoints(str(tmp_path / "store")) == tmp_path / "store" / "run" / "checkpoints"
    assert folder.checkpoints(str(tmp_path / "store")).is_dir()


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        RunFolder.open(tmp_path)


def test_a_run_name_makes_a_folder_name() -> None:
    assert default_path("pi_1/new run").name.startswith("pi_1-new-run-")
