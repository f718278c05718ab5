"""The sharded policy against transformers' own logits, for several architectures."""

from pathlib import Path

import pytest
import torch
from tiny_models import config, learner, llama, qwen2, save
from transformers import GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM, PreTrainedModel

from learner.model_folder import locate
from rlvr.errors import UserError

pytestmark = pytest.mark.usefixtures("alone")


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=1))


MODELS = {"qwen2": qwen2, "qwen2 tied": lambda: qwen2(tied=True), "llama": llama, "gpt2": gpt2}
IDS = torch.tensor([[5, 9, 11, 30, 31, 40], [7, 8, 50, 0, 0, 0]])
POSITIONS = torch.tensor([1, 2, 3, 4, 6, 7])  # completions [11, 30, 31, 40] and [8, 50]
TARGETS = torch.tensor([11, 30, 31, 40, 8, 50])


def plain_logprobs(model: PreTrainedModel, *, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row without padding, all logits at once."""
    pieces = []
    for ids, first in ((IDS[0], 2), (IDS[1, :3], 1)):
        logprobs = torch.log_softmax(model(ids[None]).logits[0, first - 1 : -1] / temperature, dim=-1)
        pieces.append((logprobs.gather(1, ids[first:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)))
    return torch.cat([logprobs for logprobs, _ in pieces]), torch.cat([entropies for _, entropies in pieces])


@pytest.mark.parametrize("name", MODELS)
def test_logprobs_and_entropies_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = MODELS[name]().eval()
    folder = save(model, tmp_path / "model")
    expected = plain_logprobs(model, temperature=0.7)
    expected[0].sum().backward()
    ours = learner(config(folder, rollout={"temperature": 0.7}))
    logprobs, entropies = ours.policy(IDS, POSITIONS, TARGETS)
    torch.testing.assert_close(logprobs, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, expected[1], atol=1e-5, rtol=1e-5)
    logprobs.sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    for weight_name, weight in ours.policy.weights().items():
        torch.testing.assert_close(weight.grad.full_tensor(), gradients[weight_name], atol=1e-5, rtol=1e-4)  # type: ignore[union-attr]


def test_recomputed_activations_give_the_same_gradients(small: Path) -> None:
    gradients = []
    for recompute in (False, True):
        ours = learner(config(small, model={"activation_checkpointing": recompute}))
        ours.policy(IDS, POSITIONS, TARGETS)[0].sum().backward()
        gradients.append([weight.grad.full_tensor() for weight in ours.policy.weights().values()])  # type: ignore[union-attr]
    assert all(torch.equal(plain, recomputed) for plain, recomputed in zip(*gradients, strict=True))


@pytest.mark.parametrize(("recompute", "passes"), [(False, 1), (True, 2)])
def test_a_layer_runs_again_in_the_backward_pass_only_where_asked(small: Path, recompute: bool, passes: int) -> None:
    ours = learner(config(small, model={"activation_checkpointing": recompute}))
    runs: list[object] = []
    ours.policy.model.get_submodule("model.layers.0.mlp").register_forward_pre_hook(lambda *_: runs.append(None))
    ours.policy(IDS, POSITIONS, TARGETS)[0].sum().backward()
    assert len(runs) == passes


def test_recomputing_activations_leaves_dropout_off(tmp_path: Path) -> None:
    folder = save(gpt2(), tmp_path / "model")  # GPT-2 has dropout 0.1
    ours = learner(config(folder, model={"activation_checkpointing": True}))
    first, second = ours.policy(IDS, POSITIONS, TARGETS)[0], ours.policy(IDS, POSITIONS, TARGETS)[0]
    assert torch.equal(first, second)


def test_bf16_compute_keeps_fp32_masters_and_gradients(small: Path) -> None:
    ours = learner(config(small, model={"compute_dtype": "bfloat16"}))
    logprobs, _ = ours.policy(IDS, POSITIONS, TARGETS)
    logprobs.sum().backward()
    exact, _ = learner(config(small)).policy(IDS, POSITIONS, TARGETS)
    assert logprobs.dtype == torch.float32
    assert 0.0 < (logprobs - exact).abs().max().item() < 0.1
    assert all(weight.dtype == weight.grad.dtype == torch.float32 for weight in ours.policy.weights().values())


def test_a_missing_model_folder_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the model folder .*/nothing does not exist$"):
        locate(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"has no config.json$"):
        locate(str(tmp_path))


def test_a_folder_without_weights_is_the_users_mistake(tmp_path: Path, small: Path) -> None:
    (tmp_path / "config.json").write_bytes((small / "config.json").read_bytes())
    with pytest.raises(UserError, match="cannot be loaded as a causal language model"):
        learner(config(tmp_path))


def test_a_model_that_scales_its_logits_is_refused(tmp_path: Path) -> None:
    granite = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, logits_scaling=8.0, pad_token_id=0
        )
    )
    with pytest.raises(UserError, match="changes its logits"):
        learner(config(save(granite, tmp_path / "model")))


def test_float16_without_loss_scaling_is_refused(small: Path) -> None:
    with pytest.raises(UserError, match="loss scaling"):
        learner(config(small, model={"compute_dtype": "float16"}))


def test_a_frozen_model_has_nothing_to_train(small: Path) -> None:
    reference = learner(config(small, objective={"kl_coef": 0.1})).reference
    assert reference is not None
    assert not any(weight.requires_grad for weight in reference.parameters())


def test_a_hub_id_of_one_word_is_one_for_the_learner_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"^the model one-word is no folder here and could not be fetched"):
        locate("one-word")
    kept = tmp_path / "models--one-word"
    (kept / "snapshots" / "0f0f").mkdir(parents=True)
    (kept / "snapshots" / "0f0f" / "config.json").write_text("{}")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0f0f")
    assert locate("one-word") == kept / "snapshots" / "0f0f"
