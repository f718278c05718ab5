"""Laws of `--resume`: a run goes on only as itself; whatever is refused is one sentence and touches nothing."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from resume_fakes import MODES, PLACES, config, config_at, ended, everything

from actors.journal.entries import FORMAT as JOURNAL_FORMAT
from actors.journal.entries import Header
from actors.run.folder import EVENTS, METRICS, RunFolder
from actors.run.history import FACTS, FORMAT, FactsSoFar, NodeCost, decode_facts, read_history
from actors.run.resume import Finished, Mode, Resume, Start, decide, differences, open_run, refused
from learner.checkpoint_files import FORMAT as CHECKPOINT_FORMAT
from learner.checkpoint_files import MARKER, encode_marker, folder_of
from rlvr.config import Config
from rlvr.config_file import dump_config, load_config
from rlvr.errors import LockLost, UserError
from rlvr.records import Version
from rlvr.wire import pack

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    return config_at(request.param, tmp_path)


def test_without_resume_a_run_starts(tmp_path: Path) -> None:
    assert decide(None, config(), tmp_path / "run") == Start(run_dir=tmp_path / "run")


def test_auto_starts_where_nothing_is_and_must_refuses(place: Config, tmp_path: Path) -> None:
    assert decide("auto", place, tmp_path / "run") == Start(run_dir=tmp_path / "run")
    with pytest.raises(UserError, match=r"there is no run folder|holds no run"):
        decide("must", place, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stopped", [None, "interrupted", "failed"])
def test_an_unfinished_run_goes_on_from_what_it_was(place: Config, tmp_path: Path, mode: Mode, stopped: str | None) -> None:
    first = open_run(decide(mode, place, tmp_path / "run") if mode == "auto" else Start(run_dir=tmp_path / "run"), place)
    first.folder.event("trained", step=4)
    ended(first, stopped)
    decided = decide(mode, place, tmp_path / "run")
    assert isinstance(decided, Resume)
    second = open_run(decided, place)
    assert second.before == FactsSoFar(name="r", stopped=stopped, steps=4, num_steps=10, training_seconds=50.0)
    assert [event["event"] for event in second.folder.read(EVENTS)] == ["trained", "resumed"]
    kept = second.folder.facts()
    assert kept is not None
    assert (kept.stopped, kept.resumes) == (None, 1)
    with pytest.raises(LockLost):
        first.lock.beat()
    second.lock.beat()


def test_with_a_store_another_host_goes_on_without_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = config(tmp_path / "store")
    first = open_run(Start(run_dir=tmp_path / "pod-a"), stored)
    first.folder.append(METRICS, {"step": 4})
    ended(first, None)
    monkeypatch.chdir(tmp_path)
    decided = decide("must", stored, None)
    assert isinstance(decided, Resume)
    second = open_run(decided, stored)
    assert second.folder.path != first.folder.path
    assert second.folder.read(METRICS) == [{"step": 4}]


def test_what_a_run_has_cost_reaches_a_store_elsewhere_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), config(tmp_path / "store"))

    def kept() -> float:
        return decode_facts(read_history(run.store, FACTS, is_mirrored=True), where="store").total_seconds

    run.save_facts(FactsSoFar(name="r", total_seconds=5.0))
    assert kept() == 0.0
    monkeypatch.setattr("actors.run.resume.PUSH_S", 0.0)
    run.save_facts(FactsSoFar(name="r", total_seconds=6.0))
    assert kept() == 6.0


def test_the_same_host_knows_better_than_the_store_what_a_killed_run_has_cost(tmp_path: Path) -> None:
    place = config(tmp_path / "store")
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    ended(run, None)
    run.save_facts(FactsSoFar(name="r", total_seconds=90.0, costs={"shared": NodeCost(usd=3.0, node_seconds=90.0)}))
    here = open_run(decide("must", place, tmp_path / "run"), place)  # type: ignore[arg-type]
    assert here.before is not None
    assert here.before.costs["shared"].usd == 3.0
    assert here.before.steps == 4, "all else is as the store has it"
    ended(here, None, steps=5)
    elsewhere = open_run(decide("must", place, tmp_path / "other"), place)  # type: ignore[arg-type]
    assert elsewhere.before is not None
    assert elsewhere.before.costs == {}


def test_a_finished_run_is_left_alone(place: Config, tmp_path: Path) -> None:
    ended(open_run(Start(run_dir=tmp_path / "run"), place), "finished", steps=10)
    before = everything(tmp_path)
    decided = decide("auto", place, tmp_path / "run")
    assert isinstance(decided, Finished)
    assert "finished, after 10 steps" in decided.sentence
    with pytest.raises(UserError, match="is finished, after 10 steps"):
        decide("must", place, tmp_path / "run")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("stopped", [None, "finished"])
def test_more_steps_continue_a_run_whose_learning_rate_does_not_depend_on_their_number(place: Config, tmp_path: Path, stopped: str | None) -> None:
    ended(open_run(Start(run_dir=tmp_path / "run"), place), stopped, steps=10)
    more = msgspec.structs.replace(place, run=msgspec.structs.replace(place.run, num_steps=20))
    decided = decide("auto", more, tmp_path / "run")
    assert isinstance(decided, Resume)
    assert decided.changed == ("run.num_steps",)
    ended(open_run(decided, more), None)
    assert isinstance(decide("auto", more, tmp_path / "run"), Resume)
    with pytest.raises(UserError, match=r"run\.num_steps was 20, is 10"):
        decide("auto", place, tmp_path / "run")


@pytest.mark.parametrize("mode", MODES)
def test_another_configuration_is_refused_with_the_keys_that_differ(place: Config, tmp_path: Path, mode: Mode) -> None:
    ended(open_run(Start(run_dir=tmp_path / "run"), place), None)
    before = everything(tmp_path)
    other = msgspec.structs.replace(
        place,
        rollout=msgspec.structs.replace(place.rollout, group_size=4),
        run=msgspec.structs.replace(place.run, seed=2, num_steps=9),
        metrics=msgspec.structs.replace(place.metrics, port=1),
    )
    with pytest.raises(UserError) as caught:
        decide(mode, other, tmp_path / "run")
    for words in ("rollout.group_size was 8, is 4", "run.seed was 1, is 2", "run.num_steps was 10, is 9"):
        assert words in str(caught.value)
    assert "metrics.port" not in str(caught.value)
    assert everything(tmp_path) == before


def test_where_and_how_fast_a_run_goes_may_change_and_what_it_trains_may_not() -> None:
    may = config(
        generators={"count": 3, "max_num_seqs": 7},
        verifiers={"count": 2, "workers": 3},
        learner={"ranks": 2, "keep": 5},
        queue={"lease_s": 9.0, "journal": "write"},
        weights={"deadline_s": 5.0},
        metrics={"bind": "0.0.0.0"},
        run={"checkpoint_every_steps": 1, "grace_s": 5.0},
    )
    assert len(differences(config(), may)) == 12
    assert refused(config(), may) == {}
    for table, key, value in (
        ("model", "policy", "/m"),
        ("prompts", "copies_per_step", 2),
        ("reward", "wrong", -1.0),
        ("advantage", "std_ddof", 0),
        ("objective", "kl_coef", 0.0),
        ("optimizer", "learning_rate", 1.0),
        ("evaluation", "grader", "qwen25_math"),
        ("queue", "order", "completion"),
        ("verifiers", "cpu_budget_s", 9.0),
        ("run", "seed", 9),
        ("run", "deterministic", True),
    ):
        assert list(refused(config(), config(**{table: {key: value}}))) == [f"{table}.{key}"]


def test_in_deterministic_mode_nothing_may_change_on_which_bits_depend() -> None:
    exact = {"run": {"deterministic": True}}
    assert list(refused(config(**exact), config(**exact, generators={"max_num_seqs": 7}))) == ["generators.max_num_seqs"]
    assert refused(config(**exact), config(**exact, generators={"labels": {"a": "b"}})) == {}


def test_more_steps_are_refused_where_the_learning_rate_depends_on_their_number() -> None:
    linear = {"optimizer": {"schedule": "linear"}}
    assert "constant" in refused(config(**linear), config(**linear, run={"num_steps": 11}))["run.num_steps"]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_a_newer_format_is_refused(place: Config, tmp_path: Path, mode: Mode) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    ended(run, None)
    name = f"history/{FACTS}" if place.run.store else FACTS
    run.store.write(name, msgspec.json.encode({"format": FORMAT + 1, "something": "new"}))
    before = everything(tmp_path)
    with pytest.raises(UserError, match=f"of format {FORMAT + 1}"):
        decide(mode, place, tmp_path / ("run" if not place.run.store else "fresh"))
    assert everything(tmp_path) == before


def header(**changed: Any) -> bytes:
    plain = Header(format=JOURNAL_FORMAT, run="r", segment=1, incarnation=0, lineage=0, at=0.0)
    return pack({"type": "header", **msgspec.to_builtins(plain), **changed})


@pytest.mark.parametrize("mode", MODES)
def test_a_journal_that_another_version_wrote_is_refused_before_anything_is_started(place: Config, tmp_path: Path, mode: Mode) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    ended(run, None)
    run.store.write("journal/00000001.journal", header())
    assert isinstance(decide(mode, place, tmp_path / "run"), Resume)
    run.store.write("journal/00000002.journal", header(format=JOURNAL_FORMAT + 1, shape="new"))
    run.store.write("journal/00000003.journal", b"\x01torn")
    run.store.write("journal/00000004.journal", b"")
    before = everything(tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path}.*: the journal was written in format {JOURNAL_FORMAT + 1}, this firesteel reads"):
        decide(mode, place, tmp_path / "run")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_of_a_newer_format_is_refused_before_anything_is_started(place: Config, tmp_path: Path, mode: Mode) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    ended(run, None)
    run.store.write(f"{folder_of(4)}/{MARKER}", encode_marker(Version(step=4), [], world_size=1))
    assert isinstance(decide(mode, place, tmp_path / "run"), Resume)
    run.store.write(f"{folder_of(8)}/{MARKER}", msgspec.json.encode({"format": CHECKPOINT_FORMAT + 1, "shape": "new"}))
    run.store.write(f"{folder_of(12)}/{MARKER}", b"{torn")
    before = everything(tmp_path)
    with pytest.raises(UserError, match=rf"{folder_of(8)} has format {CHECKPOINT_FORMAT + 1}; .* use a newer one"):
        decide(mode, place, tmp_path / "run")
    assert everything(tmp_path) == before


def test_a_run_made_before_runs_could_be_resumed_is_refused(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", config())
    (tmp_path / "run" / FACTS).unlink()
    with pytest.raises(UserError, match="made before"):
        decide("must", config(), tmp_path / "run")


def test_a_folder_that_holds_something_else_is_refused(place: Config, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for mode in MODES:
        with pytest.raises(UserError, match="no run folder"):
            decide(mode, place, tmp_path / "run")


def test_the_folder_of_another_run_does_not_take_a_stores_run(tmp_path: Path) -> None:
    open_run(Start(run_dir=tmp_path / "other"), config(run={"name": "other"}))
    with pytest.raises(UserError, match="the folder of the run other"):
        decide("auto", config(tmp_path / "store"), tmp_path / "other")


def test_a_store_that_the_run_file_does_not_name_any_more_is_missed(tmp_path: Path) -> None:
    stored = config(tmp_path / "store")
    ended(open_run(Start(run_dir=tmp_path / "run"), stored), None)
    with pytest.raises(UserError, match=r"run.store = .*store"):
        decide("must", config(), tmp_path / "run")


def test_must_needs_to_be_told_which_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --run-dir"):
        decide("must", config(), None)


def test_auto_without_a_folder_takes_the_newest_unfinished_run_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for time, stopped in (("20260101-000000", None), ("20260102-000000", "interrupted"), ("20260103-000000", "finished")):
        ended(open_run(Start(run_dir=Path("runs") / f"r-{time}"), config()), stopped)
    ended(open_run(Start(run_dir=Path("runs/r-x-20260104-000000")), config(run={"name": "r-x"})), None)
    (tmp_path / "runs" / "r-20260105-000000").mkdir()
    decided = decide("auto", config(), None)
    assert isinstance(decided, Resume)
    assert decided.run_dir == Path("runs/r-20260102-000000")
    assert isinstance(decide("auto", config(run={"name": "new"}), None), Start)


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.glob("*.toml")))
def test_a_run_file_that_was_kept_is_the_same_as_itself(tmp_path: Path, recipe: str) -> None:
    given = load_config(RECIPES / recipe)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text(dump_config(given))
    assert differences(load_config(folder / "config.toml"), given) == {}
