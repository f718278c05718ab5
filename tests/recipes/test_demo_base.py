"""The demo's base model: its tokenizer, size, pretraining and cache."""

import io
import itertools
import math
import os
from pathlib import Path

import msgspec
import pytest
import torch
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from recipes.demo import base
from recipes.demo.base import EOS_ID, IGNORED, PAD_ID, batches, cached_base, learning_rate, make_model, make_tokenizer, pretrain
from recipes.demo.recipe import ALPHABET, Recipe, recipe_hash

TINY = Recipe(num_steps=2, batch_size=8, warmup_steps=1)
QUIET = Console(file=io.StringIO())


def test_the_tokenizer_takes_one_character_for_one_token_and_gives_it_back() -> None:
    tokenizer = make_tokenizer(Recipe())
    text = "-47-38=?7+8=15;4+3+1=8;so -85 \\boxed{12.8/3}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, EOS_ID, PAD_ID], skip_special_tokens=True) == text
    assert len(ALPHABET) + 2 == 53


def test_an_id_without_a_character_never_decodes_to_something_a_number_could_hold() -> None:
    tokenizer = make_tokenizer(Recipe())
    assert len(tokenizer) == 64
    assert tokenizer.decode([2, 60, 3]) == "0<unused60>1"


def test_the_model_has_345_472_parameters_and_the_seed_decides_them() -> None:
    model, same, other = make_model(Recipe(seed=1)), make_model(Recipe(seed=1)), make_model(Recipe(seed=2))
    assert sum(parameter.numel() for parameter in model.parameters()) == 345_472
    assert torch.equal(model.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()


def test_only_completion_and_end_are_learnt() -> None:
    parts = next(batches(Recipe()))
    assert sum(len(tokens_BT) for tokens_BT, _ in parts) == 128
    question = base.vocabulary(64)["?"]
    for tokens_BT, labels_BT in parts:
        for tokens, labels in zip(tokens_BT.tolist(), labels_BT.tolist(), strict=True):
            prompt_end, end = tokens.index(question) + 1, tokens.index(EOS_ID) + 1
            assert labels == [IGNORED] * prompt_end + tokens[prompt_end:end] + [IGNORED] * (len(tokens) - end)


def test_the_learning_rate_warms_up_and_falls_to_two_per_cent() -> None:
    recipe = Recipe()
    rates = [learning_rate(recipe, step) for step in range(1, 601)]
    assert rates[0] == pytest.approx(4e-5)
    assert max(rates) == rates[49] == pytest.approx(2e-3)
    assert rates[-1] == pytest.approx(4e-5)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[49:]))


def test_the_parts_of_a_batch_give_the_gradient_of_the_whole_batch() -> None:
    """After one step from the same weights, AdamW's first moment is the clipped gradient times 1 - beta1: it must be that of one padded batch."""
    recipe = msgspec.structs.replace(TINY, num_steps=1, batch_size=32)
    parts = next(batches(recipe))
    width = max(tokens_BT.shape[1] for tokens_BT, _ in parts)
    tokens_BT = torch.cat([torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]), value=PAD_ID) for tokens, _ in parts])
    labels_BT = torch.cat([torch.nn.functional.pad(labels, (0, width - labels.shape[1]), value=IGNORED) for _, labels in parts])
    whole = make_model(recipe)
    logits_BTV = whole(input_ids=tokens_BT[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED)
    loss.backward()
    losses: list[float] = []
    trained = pretrain(recipe, lambda step, value: losses.append(value))
    assert losses == [pytest.approx(loss.item(), rel=1e-5)]
    norm = math.sqrt(sum(float(parameter.grad.pow(2).sum()) for parameter in whole.parameters() if parameter.grad is not None))
    for expected, found in zip(whole.parameters(), trained.parameters(), strict=True):
        assert expected.grad is not None
        assert found.grad is not None
        torch.testing.assert_close(found.grad, expected.grad * min(1.0, 1.0 / norm), rtol=1e-3, atol=1e-6)


def test_pretraining_is_the_same_on_one_core_and_on_two(monkeypatch: pytest.MonkeyPatch) -> None:
    first = pretrain(TINY, lambda step, loss: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    second = pretrain(TINY, lambda step, loss: None)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


def test_a_saved_base_loads_with_transformers_alone_and_ends_at_eos(tmp_path: Path) -> None:
    folder = cached_base(TINY, QUIET, cache=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [recipe_hash(TINY)]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    assert (config.architectures, config.tie_word_embeddings, config.vocab_size) == (["Qwen2ForCausalLM"], False, 64)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (EOS_ID, PAD_ID)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.chat_template) == (EOS_ID, PAD_ID, None)
    assert tokenizer.encode("6.9+5.9=?", add_special_tokens=False) == make_tokenizer(TINY).encode("6.9+5.9=?", add_special_tokens=False)
    assert tokenizer.encode("6.9+5.9=?") == tokenizer.encode("6.9+5.9=?", add_special_tokens=False)


def test_the_cache_is_taken_where_the_recipe_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cached_base(TINY, QUIET, cache=tmp_path)
    monkeypatch.setattr(base, "pretrain", None)
    assert cached_base(TINY, QUIET, cache=tmp_path) == folder


@pytest.mark.parametrize("change", [{"seed": 1}, {"num_steps": 3}, {"learning_rate": 1e-3}, {"hidden_size": 64}, {"weight_decay": 0.0}])
def test_the_hash_changes_with_the_recipe(change: dict[str, float]) -> None:
    assert recipe_hash(msgspec.structs.replace(TINY, **change)) != recipe_hash(TINY)


def test_the_hash_changes_with_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_hash(TINY)
    monkeypatch.setattr("recipes.demo.problems.CARRY_PROBABILITY", 0.5)
    assert recipe_hash(TINY) != before


@pytest.mark.parametrize("where", ["pretrain", "save"])
def test_an_interrupted_pretraining_leaves_no_cache(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(base, where)

    def interrupted(*arguments: object) -> None:
        original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(base, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached_base(TINY, QUIET, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
