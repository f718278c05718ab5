"""Law of bad input: one clear sentence on stderr, exit code 2, nothing written, no traceback; `--debug` shows it."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from actors import cli
from actors.run.folder import RunFolder
from recipes.demo.base import Recipe, make_tokenizer
from rlvr.config import Config

PROBLEM = {"id": "p", "prompt": "1+1=?", "answer": "2"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Configuration and tokenizer of a model: what is read before anything starts."""
    folder = tmp_path / "model"
    make_tokenizer(Recipe(seed=0)).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "max_position_embeddings": 64}))
    return folder


@pytest.fixture
def run_file(tmp_path: Path, model: Path) -> Path:
    (tmp_path / "problems.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    file = tmp_path / "run.toml"
    file.write_text(
        '[model]\npolicy = "model"\n[prompts]\nfile = "problems.jsonl"\ntemplate = "raw"\n'
        '[rollout]\nstop_tokens = ["<eos>"]\nmax_completion_tokens = 16\n'
    )
    return file


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; returns its exit code, what it printed and what it said on stderr."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["firesteel", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return command


@pytest.fixture
def firesteel(call: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str]]:
    """Run a command in this process; returns its exit code and what it said on stderr."""

    def command(*words: str) -> tuple[int, str]:
        code, _, said = call(*words)
        return code, said

    return command


RUN_REFUSALS = {
    "an unknown key": (["optimizer.learning_rat=1"], "did you mean optimizer.learning_rate"),
    "a wrong type": (["run.num_steps=many"], "run.num_steps"),
    "a value out of bounds": (["rollout.max_staleness=-1"], "rollout.max_staleness"),
    "a missing model folder": (["model.policy=./nowhere"], "does not exist"),
    "a missing problem file": (["prompts.file=nowhere.jsonl"], "nowhere.jsonl"),
    "an unknown problem": (["prompts.problems=['q']"], "there is no problem 'q'"),
    "a gold that cannot be parsed": (["prompts.answers={p = '1+'}"], "cannot be graded"),
    "rollouts that updates do not divide": (["optimizer.updates_per_step=3"], "must divide"),
    "a stop token that is none": (["rollout.stop_tokens=['<end>']"], "not one token"),
    "a prompt that is too long": (["rollout.max_prompt_tokens=2"], "max_prompt_tokens"),
    "a chat template that is not there": (["prompts.template=chat"], "no chat template"),
    "recomputed logprobs on stale data": (["objective.old_logprobs=recomputed"], "importance_cap"),
    "an estimator that is not built": (["advantage.estimator=gae"], "grpo"),
    "more tokens than the model holds": (["rollout.max_completion_tokens=100"], "the model holds 64"),
    "an unknown reward": (["reward.kind=outcom"], "outcom"),
    "a type that the learner cannot train in": (["model.compute_dtype=float16"], "loss scaling"),
    "a reference that cannot be had": (["model.reference=nobodys-model"], "model.reference: the configuration of nobodys-model"),
    "a store that cannot be made": (["run.store=/proc/nope"], "/proc"),
    "evaluation stops of which the tokenizer has none": (["evaluation.stop_tokens=['</s>']"], "none of '</s>'"),
}

DRY_RUN_REFUSALS = {
    "more problems a step than there are": (["prompts.problems_per_step=5"], "problems_per_step must be at most"),
    "rollouts that updates do not divide": (["optimizer.updates_per_step=3"], "must divide"),
    "a gold that cannot be parsed": (["prompts.answers={p = '1+'}"], "cannot be graded"),
    "a store that cannot be made": (["run.store=/proc/nope"], "/proc"),
    "an unknown reward": (["reward.kind=outcom"], "outcom"),
    "a template without a place for the prompt": (["prompts.template=run.toml"], "has no {prompt}"),
}


@pytest.mark.parametrize(("settings", "sentence"), RUN_REFUSALS.values(), ids=RUN_REFUSALS)
def test_a_run_is_refused_in_one_sentence_and_writes_nothing(
    firesteel: Callable[..., tuple[int, str]], run_file: Path, settings: list[str], sentence: str
) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    code, said = firesteel("run", str(run_file), "--run-dir", str(run_file.parent / "out"), *words)
    assert code == 2
    assert said.startswith("firesteel: ")
    assert said.count("\n") == 1
    assert sentence in said
    assert not (run_file.parent / "out").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    {
        "empty": ("", "is empty"),
        "no JSON": ('{"id": "p", "prompt": "1+1=?", "answer": "2"}\n{"id": "q"', "line 2"),
        "no answer": ('{"id": "p", "prompt": "1+1=?"}\n', "answer"),
        "a number": ('{"id": "p", "prompt": "1+1=?", "answer": 2}\n', "as a string"),
        "twice": (json.dumps(PROBLEM) + "\n" + json.dumps(PROBLEM) + "\n", "line 2"),
    }.values(),
)
def test_a_malformed_problem_file_is_refused_with_its_line(
    firesteel: Callable[..., tuple[int, str]], run_file: Path, content: str, sentence: str
) -> None:
    (run_file.parent / "problems.jsonl").write_text(content)
    code, said = firesteel("run", str(run_file), "--run-dir", str(run_file.parent / "out"))
    assert (code, said.count("\n")) == (2, 1)
    assert sentence in said
    assert not (run_file.parent / "out").exists()


def test_a_run_folder_that_exists_is_refused(firesteel: Callable[..., tuple[int, str]], run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code, said = firesteel("run", str(run_file), "--run-dir", str(tmp_path / "out"))
    assert (code, "exists" in said) == (2, True)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_resume_of_a_run_that_is_not_there_is_refused(firesteel: Callable[..., tuple[int, str]], run_file: Path, tmp_path: Path) -> None:
    for words in ((), ("--dry-run",)):
        code, said = firesteel("run", str(run_file), "--run-dir", str(tmp_path / "out"), "--resume", "must", *words)
        assert (code, said.count("\n")) == (2, 1)
        assert "there is no run folder" in said
    assert not (tmp_path / "out").exists()


def test_a_missing_run_file_is_refused(firesteel: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, said = firesteel("run", str(tmp_path / "nowhere.toml"))
    assert (code, "nowhere.toml" in said, said.count("\n")) == (2, True, 1)


def test_a_dry_run_needs_no_model_and_writes_nothing(call: Callable[..., tuple[int, str, str]], run_file: Path) -> None:
    before = sorted(run_file.parent.rglob("*"))
    code, printed, said = call("run", str(run_file), "--dry-run", "--set", "model.policy=./nowhere")
    assert (code, said) == (0, "")
    assert "not checked: model.policy: the model folder" in printed
    assert sorted(run_file.parent.rglob("*")) == before


def test_a_dry_run_says_of_a_missing_file_that_it_was_not_checked(call: Callable[..., tuple[int, str, str]], run_file: Path) -> None:
    code, printed, _ = call("run", str(run_file), "--dry-run", "--set", "prompts.file=there.jsonl", "--set", 'evaluation.sets=[{names=["math500"]}]')
    assert code == 0
    assert printed.count("not checked: ") == 2
    assert "can work" not in printed


@pytest.mark.parametrize(("settings", "sentence"), DRY_RUN_REFUSALS.values(), ids=DRY_RUN_REFUSALS)
def test_a_dry_run_refuses_what_the_run_would(firesteel: Callable[..., tuple[int, str]], run_file: Path, settings: list[str], sentence: str) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    code, said = firesteel("run", str(run_file), "--dry-run", *words)
    assert (code, said.count("\n")) == (2, 1)
    assert sentence in said


def test_a_dry_run_refuses_malformed_problems_a_taken_port_and_a_run_folder_that_exists(
    firesteel: Callable[..., tuple[int, str]], run_file: Path
) -> None:
    assert "exists" in firesteel("run", str(run_file), "--dry-run", "--run-dir", str(run_file.parent))[1]
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "in use" in firesteel("run", str(run_file), "--dry-run", "--set", f"metrics.port={server.getsockname()[1]}")[1]
    (run_file.parent / "held.jsonl").write_text("{")
    assert "held.jsonl, line 1" in firesteel("run", str(run_file), "--dry-run", "--set", 'evaluation.sets=[{file="held.jsonl"}]')[1]
    (run_file.parent / "problems.jsonl").write_text("{")
    assert "problems.jsonl, line 1" in firesteel("run", str(run_file), "--dry-run")[1]


def test_what_is_no_run_folder_cannot_be_looked_at(firesteel: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    for command in ("status", "rollouts"):
        code, said = firesteel(command, str(tmp_path))
        assert (code, "no run folder" in said) == (2, True)


def test_an_unknown_verdict_kind_is_refused(firesteel: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config())
    code, said = firesteel("rollouts", str(folder.path), "--kind", "wrongg")
    assert (code, "the kinds are" in said) == (2, True)


def test_an_evaluation_without_a_model_is_refused(firesteel: Callable[..., tuple[int, str]], run_file: Path, tmp_path: Path) -> None:
    problems = str(run_file.parent / "problems.jsonl")
    assert "no model folder" in firesteel("eval", str(tmp_path), problems)[1]
    assert "same completion every time" in firesteel("eval", str(run_file.parent / "model"), problems, "--samples", "4")[1]
    assert "at most" in firesteel("eval", str(run_file.parent / "model"), problems, "--template", "raw", "--max-tokens", "100")[1]


def test_a_port_in_use_is_refused_before_the_run_folder_is_made(firesteel: Callable[..., tuple[int, str]], run_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, said = firesteel("run", str(run_file), "--run-dir", str(run_file.parent / "out"), "--set", f"metrics.port={port}")
    assert (code, "in use" in said, said.count("\n")) == (2, True, 1)
    assert not (run_file.parent / "out").exists()


def test_a_ray_that_cannot_be_joined_is_refused(firesteel: Callable[..., tuple[int, str]], run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "no-such-scheme://here")
    code, said = firesteel("run", str(run_file), "--run-dir", str(run_file.parent / "out"))
    assert (code, "RAY_ADDRESS" in said, said.count("\n")) == (2, True, 1)
    assert not (run_file.parent / "out").exists()


def test_debug_shows_the_traceback(firesteel: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["firesteel", "--debug", "run", "nowhere.toml"])
    with pytest.raises(Exception, match=r"nowhere\.toml"):
        cli.main()
