"""The demo's base model: a character tokenizer, a tiny Qwen2, and the pretraining that teaches it five habits.

Owns what pretraining does with a `Recipe`; the result is a Hugging Face folder that transformers and vLLM load. `recipes.demo` starts it as
`python -m recipes.demo.base --seed 0` where the cache has no such model.
"""

import argparse
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, repeat
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

from recipes.demo.problems import corpus, make_sets
from recipes.demo.recipe import ALPHABET, CACHE, Recipe, base_folder

PAD, EOS = "<pad>", "<eos>"
PAD_ID, EOS_ID = 0, 1
IGNORED = -100  # the label that cross-entropy leaves out


Report = Callable[[int, float], None]
"""Called after each pretraining step with its number, from 1, and its loss."""


def vocabulary(size: int) -> dict[str, int]:
    """Token → id. Ids beyond the alphabet get a text of their own that no number contains, so that a stray one never parses as an answer."""
    tokens = [PAD, EOS, *ALPHABET]
    tokens += [f"<unused{index}>" for index in range(len(tokens), size)]
    return {token: index for index, token in enumerate(tokens)}


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """One character, one token; no BOS, no chat template."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(recipe.vocab_size)))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, model_max_length=recipe.max_positions, clean_up_tokenization_spaces=False
    )


def make_model(recipe: Recipe) -> Qwen2ForCausalLM:
    """A fresh fp32 model whose weights the recipe's seed decides."""
    torch.manual_seed(recipe.seed)
    config = Qwen2Config(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        intermediate_size=recipe.intermediate_size,
        max_position_embeddings=recipe.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        dtype=torch.float32,
    )
    return Qwen2ForCausalLM(config)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Of step 1..num_steps: linear warm-up, then a cosine down to `final_share` of the peak."""
    if step <= recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / (recipe.num_steps - recipe.warmup_steps)
    return recipe.learning_rate * (recipe.final_share + (1 - recipe.final_share) * 0.5 * (1 + math.cos(math.pi * done)))


def batches(recipe: Recipe) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Endless batches, each cut into parts of similar length, the longest rows first.

    A part is (tokens, labels), both [B, T] int64 and padded on the right; labels ignore prompt and padding.
    """
    ids = vocabulary(recipe.vocab_size)
    pairs = corpus(random.Random(recipe.seed), make_sets().all)
    while True:
        rows = []
        for prompt, completion in islice(pairs, recipe.batch_size):
            tokens = [ids[character] for character in prompt + completion] + [EOS_ID]
            rows.append((tokens, [IGNORED] * len(prompt) + tokens[len(prompt) :]))
        rows.sort(key=lambda row: len(row[0]), reverse=True)
        size = math.ceil(len(rows) / recipe.num_parts)
        yield [padded(rows[start : start + size]) for start in range(0, len(rows), size)]


def padded(rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    width = max(len(tokens) for tokens, _ in rows)
    return (
        torch.tensor([tokens + [PAD_ID] * (width - len(tokens)) for tokens, _ in rows]),
        torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in rows]),
    )


def pretrain(recipe: Recipe, report: Report) -> Qwen2ForCausalLM:
    """Train a fresh model on the corpus: cross-entropy on completion and `<eos>`, the prompt masked.

    A batch is cut into parts of similar length, which saves padding; their gradients are added in a fixed order, so that the weights do not depend on
    the number of cores.
    """
    torch.set_num_threads(1)  # at this size two parts on two cores beat one operation on two cores
    model = make_model(recipe).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True)

    def gradients(part: tuple[Tensor, Tensor], num_targets: int) -> tuple[float, tuple[Tensor, ...]]:
        tokens_BT, labels_BT = part
        logits_BTV = model(input_ids=tokens_BT[:, :-1]).logits
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum") / num_targets
        return loss.item(), torch.autograd.grad(loss, parameters)

    num_cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(min(recipe.num_parts, num_cores), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for step, parts in enumerate(islice(batches(recipe), recipe.num_steps), start=1):
            num_targets = sum(int((labels_BT != IGNORED).sum()) for _, labels_BT in parts)
            losses, part_gradients = zip(*pool.map(gradients, parts, repeat(num_targets)), strict=True)
            for parameter, *shares in zip(parameters, *part_gradients, strict=True):
                parameter.grad = torch.stack(shares).sum(0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
            torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
            optimizer.step()
            report(step, sum(losses))
    return model.eval()


def save(folder: Path, model: Qwen2ForCausalLM, recipe: Recipe) -> None:
    """Write a Hugging Face folder; greedy unless asked otherwise, ends at `<eos>`."""
    transformers_logging.disable_progress_bar()  # of one file
    model.generation_config = GenerationConfig(eos_token_id=EOS_ID, pad_token_id=PAD_ID)
    model.save_pretrained(folder)
    make_tokenizer(recipe).save_pretrained(folder)
    (folder / "pretraining.json").write_bytes(msgspec.json.format(msgspec.json.encode(recipe)) + b"\n")


def cached_base(recipe: Recipe, console: Console, *, cache: Path = CACHE) -> Path:
    """The folder of the recipe's base model, pretrained now unless it was before.

    The folder appears whole or not at all: it is written under another name and renamed.
    """
    folder = base_folder(recipe, cache=cache)
    if folder.is_dir():
        console.print(f"base model: {folder} (pretrained before)")
        return folder
    model = pretrain_with_progress(recipe, console)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache, ignore_cleanup_errors=True) as partial:
        whole = Path(partial) / folder.name
        save(whole, model, recipe)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process pretrained the same model meanwhile
                raise
    console.print(f"base model: {folder}")
    return folder


def pretrain_with_progress(recipe: Recipe, console: Console) -> Qwen2ForCausalLM:
    """Pretrain with a progress bar, or with a line every 100 steps where the output is no terminal."""
    started = time.monotonic()
    columns = (TextColumn("pretraining the base model"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("pretraining", total=recipe.num_steps, loss="")

        def report(step: int, loss: float) -> None:
            progress.update(bar, completed=step, loss=f"loss {loss:.3f}")
            if not console.is_terminal and step % 100 == 0:
                console.print(f"pretraining the base model: step {step} of {recipe.num_steps}, loss {loss:.3f}, {time.monotonic() - started:.0f} s")

        model = pretrain(recipe, report)
    console.print(f"pretrained in {time.monotonic() - started:.0f} s")
    return model


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.demo.base", description="Pretrain the demo's base model, or take it from the cache.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="copy the model to this folder, which must not exist")
    arguments = parser.parse_args()
    console = Console()
    if arguments.out and arguments.out.exists():
        console.print(f"{arguments.out} exists; give another folder")
        return 2
    try:
        folder = cached_base(Recipe(seed=arguments.seed), console)
    except KeyboardInterrupt:
        console.print("interrupted; nothing was written")
        return 130
    if arguments.out:
        shutil.copytree(folder, arguments.out)
        console.print(f"copied to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
