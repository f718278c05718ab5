"""Laws of the tokenizer: what a model's folder says of its length and its ends, and what is refused in one sentence."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from actors.tokenizer import Tokenizer, check_model
from recipes.demo.base import Recipe, make_tokenizer
from rlvr.config import ModelConfig
from rlvr.errors import ConfigError


def tokenizer(folder: Path, **config: Any) -> Tokenizer:
    make_tokenizer(Recipe(seed=0)).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "qwen2", "max_position_embeddings": 64}))
    return Tokenizer(ModelConfig(policy=str(folder)))


def test_an_evaluations_stop_token_that_the_tokenizer_lacks_stops_nothing_and_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tokenizer(tmp_path)
    with caplog.at_level(logging.WARNING):
        ids = model.known_stop_token_ids(["</s>", "<eos>", "<|im_end|>"], key="evaluation.stop_tokens")
    assert ids == model.stop_token_ids(["<eos>"], key="rollout.stop_tokens")
    [record] = caplog.records
    assert "'</s>', '<|im_end|>'" in record.getMessage()


def test_an_evaluation_without_any_stop_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation.stop_tokens: .*'</s>'.* its end token is '<eos>'"):
        tokenizer(tmp_path).known_stop_token_ids(["</s>"], key="evaluation.stop_tokens")


def test_no_stop_tokens_at_all_may_be_asked_for(tmp_path: Path) -> None:
    assert tokenizer(tmp_path).known_stop_token_ids([], key="evaluation.stop_tokens") == ()


def test_a_rollouts_stop_token_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rollout.stop_tokens: '</s>' is not one token"):
        tokenizer(tmp_path).stop_token_ids(["<eos>", "</s>"], key="rollout.stop_tokens")


def test_the_length_of_a_model_of_several_parts_is_that_of_its_text_part(tmp_path: Path) -> None:
    model = tokenizer(tmp_path, model_type="gemma3", text_config={"model_type": "gemma3_text", "max_position_embeddings": 48})
    assert model.max_model_len == 48


def test_the_length_is_found_under_the_models_own_name_for_it(tmp_path: Path) -> None:
    assert tokenizer(tmp_path / "a", model_type="gpt2", n_positions=32).max_model_len == 32
    assert tokenizer(tmp_path / "b", model_type="mpt", max_seq_len=40).max_model_len == 40


def test_a_configuration_that_transformers_does_not_know_is_the_users_mistake(tmp_path: Path) -> None:
    model = tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
    with pytest.raises(ConfigError, match=r"^model.policy: the configuration of .* cannot be loaded"):
        _ = model.max_model_len


def test_a_model_that_does_not_say_how_long_it_is_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not say how many tokens it holds"):
        _ = tokenizer(tmp_path, model_type="mamba").max_model_len


def test_a_reference_that_cannot_be_had_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^model.reference: the configuration of nobodys-model cannot be loaded"):
        check_model(ModelConfig(reference="nobodys-model"), "nobodys-model", key="model.reference")
