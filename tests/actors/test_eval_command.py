"""Laws of `firesteel eval`: with a run file a model is asked as that run would ask it."""

import json
from pathlib import Path

import pytest

from actors.commands.evaluate import EvaluationPlan, configuration, engine_settings, plan_evaluation
from actors.tokenizer import Tokenizer
from recipes.demo.base import Recipe, make_tokenizer
from rlvr.config import ModelConfig
from rlvr.errors import UserError

RUN = '[prompts]\ntemplate = "raw"\n[rollout]\nstop_tokens = ["7"]\nmax_completion_tokens = 16\n[generators]\ndevice = "cpu"\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    make_tokenizer(Recipe(seed=0)).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "max_position_embeddings": 64}))
    (tmp_path / "problems.jsonl").write_text(json.dumps({"id": "p", "prompt": "1+1=?", "answer": "2"}) + "\n")
    return folder


def plan(model: Path, run: str | None, *, max_tokens: int | None = None, template: str | None = None) -> EvaluationPlan:
    run_file = model.parent / "run.toml"
    run_file.write_text(run or "")
    config = configuration(model, run_file if run is not None else None, extract=None, template=template, max_tokens=max_tokens)
    return plan_evaluation(config, model.parent / "problems.jsonl", samples=1, temperature=0.0, has_run_file=run is not None)


def ids(model: Path, *tokens: str) -> tuple[int, ...]:
    return Tokenizer(ModelConfig(policy=str(model))).stop_token_ids(tokens, key="test")


def test_what_the_evaluation_leaves_out_is_that_of_the_rollouts(model: Path) -> None:
    sampling = plan(model, RUN).sampling
    assert (sampling.max_tokens, sampling.stop_token_ids) == (16, ids(model, "7"))


def test_what_the_evaluation_says_itself_stands(model: Path) -> None:
    sampling = plan(model, RUN + '[evaluation]\nmax_completion_tokens = 8\nstop_tokens = ["<eos>", "</s>"]\n').sampling
    assert (sampling.max_tokens, sampling.stop_token_ids) == (8, ids(model, "<eos>"))


def test_an_option_stands_before_the_run_file(model: Path) -> None:
    assert plan(model, RUN, max_tokens=4).sampling.max_tokens == 4


def test_a_limit_of_the_run_that_the_model_cannot_hold_is_refused(model: Path) -> None:
    with pytest.raises(UserError, match="lower --max-tokens"):
        plan(model, RUN.replace("16", "100"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_model_computes_in_the_runs_type(model: Path, dtype: str) -> None:
    assert engine_settings(plan(model, f'{RUN}[model]\ncompute_dtype = "{dtype}"\n'), device="cpu").dtype == dtype


def test_without_a_run_file_the_model_says_where_it_ends_and_a_cpu_computes_in_float32(model: Path) -> None:
    alone = plan(model, None, template="raw")
    assert alone.sampling.stop_token_ids == ids(model, "<eos>")
    assert alone.sampling.max_tokens == 64 - len(alone.prompts[0].prompt_ids)
    assert engine_settings(alone, device="cpu").dtype == "float32"
    assert engine_settings(alone, device="cuda").dtype == "bfloat16"
