"""Laws of the run folder: refused before anything is written, never overwritten, bounded, readable while it is written."""

import json
from pathlib import Path

import pytest

from actors.run.folder import EVENTS, RunAddress, RunFolder, check_can_create, default_path
from actors.run.place import LOCK_FILES, store_root
from rlvr.config import Config, ModelConfig, RunConfig
from rlvr.config_file import load_config
from rlvr.errors import UserError
from rlvr.store import FolderStore, open_root


def stored(store: Path, **model: str) -> Config:
    return Config(run=RunConfig(store=str(store)), model=ModelConfig(**model))


def model_of(folder: Path, *, num_params: int) -> ModelConfig:
    """A model folder whose weights claim so many parameters; the weights themselves are not there."""
    folder.mkdir()
    header = json.dumps({"weight": {"dtype": "F32", "shape": [num_params], "data_offsets": [0, 4 * num_params]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return ModelConfig(policy=str(folder))


def test_a_run_folder_that_exists_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        RunFolder.create(tmp_path / "run", Config())
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["notes"]


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        check_can_create(tmp_path / "file" / "run", Config())
    with pytest.raises(UserError, match=r"run.store: .* is not a folder"):
        check_can_create(tmp_path / "run", stored(tmp_path / "file"))


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.run.place.MIN_FREE_BYTES", 2**80)
    with pytest.raises(UserError, match="GiB free"):
        check_can_create(tmp_path / "run", Config())


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


def test_the_store_is_the_run_folder_or_a_folder_of_the_runs_name_in_the_store(tmp_path: Path) -> None:
    assert store_root(Config(), tmp_path / "run") == str(tmp_path / "run")
    assert store_root(stored(tmp_path / "store"), tmp_path / "x") == str(tmp_path / "store" / "run")
    assert store_root(Config(run=RunConfig(name="n", store="memory://bucket/")), tmp_path) == "memory://bucket/n"
    assert store_root(Config(run=RunConfig(name="n", store="file:///a%20b")), tmp_path) == "/a b/n"


@pytest.mark.parametrize("name", ["checkpoints/step-000001/checkpoint.json", "journal/00000001.journal", "history/facts.json"])
def test_a_run_of_the_same_name_in_the_store_is_refused_with_the_way_to_go_on_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    for root in (str(tmp_path / "store"), f"memory://{tmp_path}"):
        open_root(f"{root}/run").write(name, b"")
        with pytest.raises(UserError, match=r"run.store: .*/run exists; .* --resume must"):
            RunFolder.create(tmp_path / "run", Config(run=RunConfig(store=root)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["store"]


def test_what_a_killed_start_left_in_the_store_does_not_count_as_a_run(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store" / "run")
    for name in (*LOCK_FILES, "history/config.toml"):
        store.write(name, b"")
    check_can_create(tmp_path / "run", stored(tmp_path / "store"))


def test_a_store_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    for store in (Path("/proc/nope"), tmp_path / ("x" * 300)):
        with pytest.raises(UserError):
            RunFolder.create(tmp_path / "run", stored(store))
    with pytest.raises(UserError, match=r"run.store: .*no-such-scheme://bucket"):
        RunFolder.create(tmp_path / "run", Config(run=RunConfig(store="no-such-scheme://bucket")))
    assert list(tmp_path.iterdir()) == []


def test_what_was_made_before_a_failure_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: RunFolder, name: str, record: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFolder, "write_json", full)
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match=r"cannot be made: .*: No space left on device"):
        RunFolder.create(tmp_path / "runs" / "a" / "b", Config())
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_line_that_a_crash_has_cut_is_taken_away_at_the_next_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    for torn in ('{"event": "ha', '{"event": "ha' * 1000):
        folder.event("whole")
        with (folder.path / EVENTS).open("a") as file:
            file.write(torn)
    folder.event("last")
    lines = (folder.path / EVENTS).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["whole", "whole", "last"]
    assert "13000 bytes" in caplog.text


def test_a_file_that_is_one_torn_line_is_emptied(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    (folder.path / EVENTS).write_text("{")
    folder.event("first")
    assert [event["event"] for event in folder.read(EVENTS)] == ["first"]


def test_only_the_runs_own_user_reads_its_token(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    address = RunAddress(ray_address="", namespace="", service="", pid=1, started="", token="secret")
    for _ in range(2):
        folder.write_address(address)
        assert (folder.path / "run.json").stat().st_mode & 0o777 == 0o600
    assert folder.address() == address


def test_a_run_that_goes_on_does_not_say_how_it_ended_before(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    folder.write_json("summary.json", {"stopped": "interrupted"})
    folder.write_failure("no more space")
    folder.event("interrupted")
    again = RunFolder.reopen(tmp_path / "run", Config(run=RunConfig(num_steps=7)))
    assert again.summary() is None
    assert not (folder.path / "failure.txt").exists()
    assert load_config(folder.path / "config.toml").run.num_steps == 7
    assert [event["event"] for event in again.read(EVENTS)] == ["interrupted"]


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused(tmp_path: Path) -> None:
    config = Config(model=model_of(tmp_path / "model", num_params=2**46))
    with pytest.raises(UserError, match=r"checkpoints need \d{7}.\d GiB; free some, or choose another --run-dir"):
        check_can_create(tmp_path / "run", config)
    with pytest.raises(UserError, match=r"choose another run.store"):
        check_can_create(tmp_path / "run", stored(tmp_path / "store", policy=config.model.policy))


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        RunFolder.open(tmp_path)


def test_a_run_name_makes_a_folder_name() -> None:
    assert default_path("pi_1/new run").name.startswith("pi_1-new-run-")


def test_a_line_that_finds_no_room_is_written_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    add, is_full = folder._add, True

    def add_where_there_is_room(name: str, line: bytes) -> None:
        if is_full:
            raise OSError(28, "No space left on device")
        add(name, line)

    monkeypatch.setattr(folder, "_add", add_where_there_is_room)
    folder.append("metrics.jsonl", {"step": 1})
    folder.event("checkpoint", step=1)
    assert folder.read("metrics.jsonl") == []
    is_full = False
    folder.append("metrics.jsonl", {"step": 2})
    assert [line["step"] for line in folder.read("metrics.jsonl")] == [1, 2]
    assert [line["event"] for line in folder.read("events.jsonl")] == ["checkpoint"]
