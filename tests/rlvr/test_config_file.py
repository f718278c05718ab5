"""Run files: what is written is what is meant, and every mistake gets one sentence."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.config import Config, EvaluationSet
from rlvr.config_file import dump_config, explain, load_config, parse_config
from rlvr.errors import ConfigError

settings.load_profile("ci")  # no deadlines, which a busy machine would miss, and the same examples each time

HERE = Path("/runs/here")


def parse(text: str = "", *overrides: str) -> Config:
    return parse_config(text, overrides, folder=HERE)


def refusal(text: str = "", *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def parsed_or_refusal(text: str, *overrides: str) -> Config | str:
    try:
        return parse(text, *overrides)
    except ConfigError as error:
        return str(error)


def test_an_empty_run_file_is_all_defaults() -> None:
    assert parse() == Config()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[rollout]\ngroup_sise = 4", "unknown key rollout.group_sise; did you mean rollout.group_size?"),
        ("[rollout]\nkl_coef = 0.1", "unknown key rollout.kl_coef; did you mean objective.kl_coef?"),
        ("[rolout]\ngroup_size = 4", "unknown key rolout.group_size; did you mean rollout.group_size?"),
        ("num_steps = 4", "unknown key num_steps; did you mean run.num_steps?"),
        ("[zzz]", "unknown key zzz; `firesteel config` lists every key"),
        ('"run.seed" = 4', 'unknown key "run.seed": a dotted name is written without quotes'),
        ("[[evaluation.sets]]\nfile='a'\nfiles=1", "unknown key evaluation.sets[].files; did you mean evaluation.sets[].file?"),
        ('[run]\n"a\\nb" = 4', "unknown key run.a\\nb; did you mean run.name?"),
        ("run = 3", "run is a table, written [run] once, got 3"),
        ("[[run]]\nseed = 1", "run is a table, written [run] once, got [{seed = 1}]"),
        ("[evaluation.sets]\nfile = 'a'", "evaluation.sets must be a list of tables, each headed by double brackets, got a table"),
        ("[run]\nseed = -1", "run.seed must be an integer >= 0 and <= 4294967295, got -1"),
        ("[run]\nseed = true", "run.seed must be an integer >= 0 and <= 4294967295, got true"),
        ("[run]\nseed = 1.0", "run.seed must be an integer >= 0 and <= 4294967295, got 1.0"),
        ("[run]\nseed = '1'", 'run.seed must be an integer >= 0 and <= 4294967295, got "1"'),
        ("[run]\nname = 1979-05-27", "run.name must be a non-empty string, got 1979-05-27"),
        ("[run]\ndeterministic = 1", "run.deterministic must be true or false, got 1"),
        ("[run.seed]\na = 1", "run.seed must be an integer >= 0 and <= 4294967295, got a table"),
        ("[rollout]\ntop_p = 1.5", "rollout.top_p must be a number > 0 and <= 1, got 1.5"),
        ("[rollout]\ntemperature = nan", "rollout.temperature must be a number > 0, got nan"),
        ("[reward]\ncorrect = inf", "reward.correct must be a number, got inf"),
        ("[rollout]\nstop_tokens = ['a', 3]", 'rollout.stop_tokens must be a list, each item a string, got ["a", 3]'),
        ("[rollout]\nstop_tokens = 'a'", 'rollout.stop_tokens must be a list, each item a string, got "a"'),
        ("[optimizer]\nbetas = [0.9]", "optimizer.betas must be a list of 2 items, each a number, got [0.9]"),
        ("[optimizer]\nschedule = 'step'", 'optimizer.schedule must be one of "constant", "cosine", "linear", got "step"'),
        ("[prompts.answers]\npi_1 = 12.7", "prompts.answers must be a table of names, each with a string, got {pi_1 = 12.7}"),
        ("[objective]\nimportance_cap = 0", "objective.importance_cap must be a number > 0, got 0"),
        ("[[evaluation.sets]]\nfile='a'\nsamples_per_problem=0", "evaluation.sets[0].samples_per_problem must be an integer >= 1, got 0"),
    ],
)
def test_every_mistake_has_its_sentence(text: str, sentence: str) -> None:
    assert refusal(text) == sentence


def test_what_is_not_toml_is_refused_with_its_place() -> None:
    assert refusal("[run]\nseed = 1\nx = [") == "this is not TOML: Invalid value (at end of document)"
    assert refusal("[run]\nseed = 01\n").startswith("this is not TOML: ")


def test_integers_do_where_numbers_are_wanted() -> None:
    assert parse("[optimizer]\nlearning_rate = 1\nbetas = [0, 0.5]").optimizer.betas == (0.0, 0.5)


def test_optional_keys_left_out_are_none_and_stay_out() -> None:
    assert parse().prompts.problems_per_step is None
    assert "problems_per_step" not in dump_config(parse())


@pytest.mark.parametrize(
    ("override", "table", "key", "value"),
    [
        ("optimizer.learning_rate=1e-5", "optimizer", "learning_rate", 1e-5),
        ("optimizer.learning_rate = 1", "optimizer", "learning_rate", 1.0),
        ("run.name=abc", "run", "name", "abc"),
        ('run.name="abc"', "run", "name", "abc"),
        ("run.name=12", "run", "name", "12"),
        ("model.revision=1e5", "model", "revision", "1e5"),
        ("run.deterministic=false", "run", "deterministic", False),
        ("optimizer.schedule=linear", "optimizer", "schedule", "linear"),
        ('prompts.problems=["pi_1", "pi_13"]', "prompts", "problems", ("pi_1", "pi_13")),
        ('prompts.answers={pi_1 = "12.7"}', "prompts", "answers", {"pi_1": "12.7"}),
        ("prompts.answers.pi_1=12.7", "prompts", "answers", {"pi_1": "12.7"}),
        ("generators.labels.rlvr.io/role=generator", "generators", "labels", {"rlvr.io/role": "generator"}),
        ("evaluation.sets=[{file='/a/b.jsonl'}]", "evaluation", "sets", (EvaluationSet(names=("b",), file="/a/b.jsonl"),)),
        ("prompts.user_suffix=a=b", "prompts", "user_suffix", "a=b"),
        ("prompts.user_suffix=", "prompts", "user_suffix", ""),
    ],
)
def test_an_override_stands_for_a_line_of_the_run_file(override: str, table: str, key: str, value: object) -> None:
    assert getattr(getattr(parse("", override), table), key) == value


def test_a_later_override_wins_over_an_earlier_one_and_over_the_file() -> None:
    assert parse("[run]\nseed = 1", "run.seed=2", "run.seed=3").run.seed == 3


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("run.seed", "an override is written KEY=VALUE, as optimizer.learning_rate=1e-5, got 'run.seed'"),
        ("run.sed=1", "unknown key run.sed; did you mean run.seed?"),
        ("run=1", "run is a table: override one of its keys, as run.name=…"),
        ("run.seed.x=1", "run.seed must be an integer >= 0 and <= 4294967295, got a table"),
        ("run.seed=one", "run.seed must be an integer >= 0 and <= 4294967295, got one"),
        ("run.seed=-1", "run.seed must be an integer >= 0 and <= 4294967295, got -1"),
        ("run.seed=1\nx=2", "run.seed must be an integer >= 0 and <= 4294967295, got 1\\nx=2"),
        ("prompts.problems=pi_1", "prompts.problems must be a list, each item a string, got pi_1"),
        ("optimizer.schedule=3", 'optimizer.schedule must be one of "constant", "cosine", "linear", got "3"'),
        (
            "evaluation.sets.file=a",
            'evaluation.sets.file cannot be overridden alone: give the whole list, as evaluation.sets=[{file="held_out.jsonl"}]',
        ),
    ],
)
def test_every_mistake_in_an_override_has_its_sentence(override: str, sentence: str) -> None:
    assert refusal("", override) == sentence


def test_an_override_of_a_table_that_the_file_wrote_as_a_value_is_refused() -> None:
    assert refusal("run = 3", "run.seed=1") == "run.seed cannot be overridden: the run file gives run the value 3 where a table belongs"


def test_the_file_is_named_in_every_refusal(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    for content, reason in [(b"[run]\nseed=-1", "run.seed must be"), (b"\xff", "not UTF-8: byte 0 is 0xff"), (b"[", "not TOML")]:
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=reason) as caught:
            load_config(path)
        assert str(path) in str(caught.value)
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(missing)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbf[run]\r\nseed = 5\r\n")
    assert load_config(tmp_path / "run.toml").run.seed == 5


def test_a_dumped_configuration_loads_as_the_same_from_any_folder() -> None:
    config = parse(
        '[prompts]\nfile="p.jsonl"\ntemplate="t.txt"\nproblems=["a.b","c"]\nanswers={"a.b"="\\\\frac{1}{2}\\u2028"}\n[model]\npolicy="./base"\n'
        '[objective]\nimportance_cap=2\nold_logprobs="recomputed"\n[[evaluation.sets]]\nnames=["x","y"]\n[[evaluation.sets]]\nfile="../z.jsonl"\n'
        '[generators.labels]\n"rlvr.io/role"="generator"\n'
    )
    assert parse_config(dump_config(config), folder=Path("/elsewhere")) == config


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.floats(1e-300, 1e300), st.integers(0, 2**32 - 1))
def test_any_text_and_number_survives_the_dump(text: str, rate: float, seed: int) -> None:
    plain = {"prompts": {"user_suffix": text, "answers": {text: text}}, "optimizer": {"learning_rate": rate}, "run": {"seed": seed}}
    config = msgspec.convert(plain, Config)
    assert parse(dump_config(config)) == config


SCALARS = st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=5) | st.dates() | st.just("0.5")
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2), max_leaves=4)
KEYS = st.sampled_from([key.name.replace("[]", "") for key in explain()]) | st.sampled_from(
    ["run", "evaluation.sets", "x", "run.x", "prompts.answers.a.b"]
)


@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_whatever_a_run_file_holds_it_loads_or_is_refused_in_one_sentence(values: dict[str, object]) -> None:
    plain: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        table = plain
        for word in path:
            inner = table.setdefault(word, {})
            table = inner if isinstance(inner, dict) else table
        table[last] = value
    try:
        text = tomli_w.dumps(plain)
    except TypeError:  # no TOML: a null
        return
    outcome = parsed_or_refusal(text)
    if isinstance(outcome, Config):
        assert parse(dump_config(outcome)) == outcome
    else:
        assert "\n" not in outcome


@given(KEYS | st.text(max_size=5), st.text(max_size=12) | SCALARS.map(str) | st.sampled_from(["[1]", "[{}]", "{a=1}", "['a']", "'", "\n", "a\nb"]))
def test_whatever_an_override_holds_it_is_taken_or_refused_in_one_sentence(name: str, value: str) -> None:
    outcome = parsed_or_refusal("", f"{name}={value}")
    assert isinstance(outcome, Config) or "\n" not in outcome


def test_every_key_is_explained_with_type_and_meaning_and_its_default_is_toml() -> None:
    keys = explain()
    assert len({key.name for key in keys}) == len(keys) > 90
    for key in keys:
        assert key.type
        assert key.meaning
        if key.default and "[]" not in key.name:
            assert parse(f"{key.name} = {key.default}") == Config()
        elif key.default:
            tomllib.loads(f"value = {key.default}")


def test_numbers_are_explained_with_their_unit() -> None:
    units = {key.name: key.unit for key in explain() if key.unit}
    assert units["queue.lease_s"] == "seconds"
    assert units["run.keep_rollouts_gib"] == "GiB"
    assert units["rollout.max_completion_tokens"] == "tokens"
    assert "rollout.stop_tokens" not in units


def test_the_explained_keys_are_the_keys_of_the_dump() -> None:
    def leaves(table: dict[str, object], prefix: str) -> set[str]:
        return {
            name
            for key, value in table.items()
            for name in (leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}"})
        }

    dumped = leaves(tomllib.loads(dump_config(Config())), "")
    assert dumped == {key.name for key in explain() if key.default and "[]" not in key.name}
