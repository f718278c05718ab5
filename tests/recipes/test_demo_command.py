"""The demo's command: what it starts, what it moves aside, and its exit codes. A script of ours stands in for the run itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from demo_runs import CONTROLS, write_run

from actors.run.folder import RunAddress, RunFolder
from benchmarks import record
from recipes.demo import __main__ as demo
from recipes.demo.controls import ARMS, WRONG_LABEL

FINISHED = dict(CONTROLS)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The commands that were started instead of being run; each leaves the figures of its arm in its run folder."""
    commands: list[list[str]] = []

    def leave_figures(command: list[str]) -> int:
        commands.append(command)
        run_dir = Path(command[command.index("--run-dir") + 1])
        arm = next(word.removeprefix("run.name=demo-") for word in command if word.startswith("run.name=demo-"))
        write_run(run_dir, *FINISHED[arm])
        return 0

    monkeypatch.setattr(demo, "call", leave_figures)
    for seed in range(5):
        (tmp_path / f"base-{seed}").mkdir()
    monkeypatch.setattr(demo, "base_folder", lambda recipe: tmp_path / f"base-{recipe.seed}")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    return commands


def test_the_demo_starts_one_run_with_its_seed_and_base_and_succeeds(
    started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--seed", "3", "--run-dir", str(tmp_path / "demo")]) == 0
    (command,) = started
    assert command[1:3] == ["run", str(record.ROOT / "recipes" / "demo.toml")]
    assert {f"model.policy={tmp_path / 'base-3'}", "run.seed=3"} <= set(command)
    printed = capsys.readouterr().out
    assert "held-out after" in printed
    assert printed.count("holds") == 3


def test_a_base_that_is_not_there_is_pretrained_first_and_an_interrupt_ends_the_demo(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained: list[list[str]] = []

    def interrupted(command: list[str]) -> int:
        pretrained.append(command)
        return demo.INTERRUPTED

    monkeypatch.setattr(demo, "call", interrupted)
    assert demo.main(["--seed", "7", "--run-dir", str(tmp_path / "demo")]) == demo.INTERRUPTED
    assert [command[1:] for command in pretrained] == [["-m", "recipes.demo.base", "--seed", "7"]]


def test_a_missed_margin_is_exit_1_with_the_table_still_printed(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FINISHED, "one-shot", (37.5, 70.0))
    assert demo.main(["--run-dir", str(tmp_path / "demo")]) == 1
    printed = capsys.readouterr().out
    assert "held-out after" in printed
    assert "MISSED" in printed


@pytest.mark.parametrize(("code", "expected"), [(1, 1), (2, 2), (130, 130), (-9, 1)])
def test_a_run_that_ends_badly_hands_on_its_exit_code(
    code: int, expected: int, started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends_badly(command: list[str]) -> int:
        write_run(tmp_path / "demo", 37.5, None, stopped="failed")
        return code

    monkeypatch.setattr(demo, "call", ends_badly)
    assert demo.main(["--run-dir", str(tmp_path / "demo")]) == expected
    assert "held-out before" in capsys.readouterr().out


def test_a_run_that_leaves_no_summary_is_exit_1(started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "call", lambda command: 0)
    assert demo.main(["--run-dir", str(tmp_path / "demo")]) == 1


def test_an_older_run_is_moved_aside_after_the_time_of_its_end_and_never_overwritten(tmp_path: Path) -> None:
    asides = []
    for content in ("first", "second"):
        folder = write_run(tmp_path / "demo", 37.5, 90.0)
        (folder / "mark").write_text(content)
        os.utime(folder / "summary.json", (1_700_000_000, 1_700_000_000))
        asides.append(demo.move_aside(folder))
    name = time.strftime("demo-%Y%m%d-%H%M%S", time.localtime(1_700_000_000))
    assert asides == [tmp_path / name, tmp_path / f"{name}-2"]
    assert [(aside / "mark").read_text() for aside in asides if aside is not None] == ["first", "second"]
    assert demo.move_aside(tmp_path / "demo") is None


def test_the_folder_of_a_run_that_is_still_going_is_left_alone(started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "demo", 37.5, 90.0)
    address = RunAddress(ray_address="", namespace="", service="", pid=os.getpid(), started="")
    RunFolder(folder).write_address(address)
    (folder / "summary.json").unlink()
    assert demo.main(["--run-dir", str(folder)]) == 2
    assert "still going" in capsys.readouterr().out
    assert started == []
    RunFolder(folder).write_address(msgspec.structs.replace(address, pid=2**31 - 1))  # no process has this id: that run died
    assert demo.main(["--run-dir", str(folder)]) == 0


def test_the_controls_run_every_arm_and_write_their_figures(started: list[list[str]], tmp_path: Path) -> None:
    assert demo.main(["--controls", "--run-dir", str(tmp_path / "arms")]) == 0
    assert [Path(command[command.index("--run-dir") + 1]).name for command in started] == [arm.name for arm in ARMS]
    assert "prompts.answers.dec-69-59=59/5" in started[ARMS.index(WRONG_LABEL)]
    record = json.loads((tmp_path / "results" / "demo_controls.json").read_text())
    assert record["holds"] is True
    assert len(record["claims"]) == 7
    assert [run["label"] for run in record["details"]["runs"]] == [arm.name for arm in ARMS]


def test_a_missed_control_is_exit_1_and_written_all_the_same(started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FINISHED, "wrong-label", (37.5, 60.0))
    assert demo.main(["--controls", "--run-dir", str(tmp_path / "arms")]) == 1
    assert json.loads((tmp_path / "results" / "demo_controls.json").read_text())["holds"] is False


def test_the_seeds_name_the_worst_of_them(started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--seeds", "0,4", "--run-dir", str(tmp_path / "seeds")]) == 0
    assert [f"run.seed={seed}" for seed in (0, 4)] == [word for command in started for word in command if word.startswith("run.seed=")]
    record = json.loads((tmp_path / "results" / "demo_seeds.json").read_text())
    assert record["details"]["worst"] == "seed 0"
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == record
    assert "seed 4" in (tmp_path / "results" / "demo_seeds.md").read_text()


def test_an_interrupt_of_the_demo_reaches_the_run_which_decides_the_exit_code() -> None:
    run = """
import signal, sys, threading
asked = threading.Event()
signal.signal(signal.SIGINT, lambda *_: asked.set())
print("ready", flush=True)
asked.wait(30)
sys.exit(130)
"""
    demo_process = f"import sys; from recipes.demo.child import call; sys.exit(call([sys.executable, '-c', {run!r}]))"
    with subprocess.Popen([sys.executable, "-c", demo_process], cwd=record.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--seed", "one"], ["--seeds", "0,-3"], ["--seeds", "0", "--controls"]])
def test_a_command_line_that_makes_no_sense_is_exit_2_and_starts_nothing(arguments: list[str], started: list[list[str]]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.main(arguments)
    assert ended.value.code == 2
    assert started == []
