"""Paths of a run file are relative to the run file; names of a hub are left alone."""

from pathlib import Path

import pytest

from rlvr.config import Config
from rlvr.config_file import load_config, parse_config
from rlvr.config_paths import check_files, is_folder_name, is_hub_id
from rlvr.config_rules import check_run, evaluation_files
from rlvr.errors import ConfigError


def parse(text: str, folder: Path) -> Config:
    return parse_config(text, folder=folder)


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("./base", "/runs/here/base"),
        ("../base", "/runs/base"),
        ("/models/base", "/models/base"),
        ("a/b/c", "/runs/here/a/b/c"),
        ("Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-Math-1.5B"),
        ("gpt2", "gpt2"),
    ],
)
def test_a_model_is_a_folder_where_it_is_written_like_one(written: str, resolved: str) -> None:
    model = parse(f"[model]\npolicy = '{written}'\nreference = '{written}'", Path("/runs/here")).model
    assert (model.policy, model.reference) == (resolved, resolved)
    assert is_folder_name(model.policy) == resolved.startswith("/")
    assert is_hub_id(model.policy) != is_folder_name(model.policy)


def test_a_model_is_a_folder_where_such_a_folder_exists(tmp_path: Path) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert parse("[model]\npolicy = 'org/model'", tmp_path).model.policy == str(tmp_path / "org" / "model")


def test_the_initial_reference_stays_a_word(tmp_path: Path) -> None:
    (tmp_path / "initial").mkdir()
    assert parse("", tmp_path).model.reference == "initial"


def test_files_are_relative_to_the_run_file_and_not_to_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.toml").write_text("[prompts]\nfile = 'p.jsonl'\ntemplate = 't.txt'\n[evaluation]\ntemplate = '../e.txt'\n")
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("a/run.toml"))
    assert config.prompts.file == str(tmp_path / "a" / "p.jsonl")
    assert config.prompts.template == str(tmp_path / "a" / "t.txt")
    assert config.evaluation.template == str(tmp_path / "e.txt")


def test_a_store_is_a_folder_beside_the_run_file() -> None:
    assert parse("[run]\nstore = 'kept'", Path("/x")).run.store == "/x/kept"
    assert parse("", Path("/x")).run.store == ""


@pytest.mark.parametrize("name", ["", "raw", "chat", "qwen25-math-cot"])
def test_built_in_templates_are_no_files(name: str) -> None:
    assert parse(f"[prompts]\ntemplate = '{name}'", Path("/x")).prompts.template == name


def test_each_evaluation_set_gets_one_entry_with_one_file(tmp_path: Path) -> None:
    head = "[[evaluation.sets]]"
    config = parse(f"{head}\nnames=['a','b']\n{head}\nfile='c.jsonl'\n{head}\nfile='d.jsonl'\nnames=['e']", tmp_path)
    files = [(name, file.name) for name, file, _ in evaluation_files(config)]
    assert files == [("a", "a.jsonl"), ("b", "b.jsonl"), ("c", "c.jsonl"), ("e", "d.jsonl")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[evaluation.sets]]\ntemperature=1.0", "a set needs names, or a file"),
        ("[[evaluation.sets]]\nfile='a'\nnames=['b','c']", "the file a is one set, but 2 names are given: b, c"),
        ("[[evaluation.sets]]\nnames=['a']\n[[evaluation.sets]]\nfile='a.jsonl'", "two sets with the name 'a'"),
    ],
)
def test_an_evaluation_set_that_names_no_one_file_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse(text, Path("/x"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[model]\npolicy='./none'", "model.policy: the model folder .*/none does not exist"),
        ("[model]\nreference='./empty'", "model.reference: the model folder .*/empty has no config.json"),
        ("[prompts]\ntemplate='chta'", "prompts.template: there is no template file .*/chta; built in are raw, chat"),
        ("[prompts]\nfile='none.jsonl'\nproblems_per_step=1", "prompts.file: there is no file .*/none.jsonl"),
        ("[[evaluation.sets]]\nnames=['math500']", "the problems of math500 are to be in .*/math500.jsonl, which does not exist"),
    ],
)
def test_missing_files_are_no_matter_when_loading_and_refused_when_running(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = parse(text, tmp_path)
    with pytest.raises(ConfigError, match=reason):
        check_files(config)
    with pytest.raises(ConfigError, match=reason):
        check_run(config, num_problems=1)
