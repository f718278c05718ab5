"""The numbers of the base model's pretraining, and where its result is kept.

Owns the `Recipe` and the names in the cache: `.cache/firesteel/demo/HASH/`. The hash covers every number of the recipe, the seed, the alphabet and a
sample of the corpus. Called by `recipes.demo.base`, which pretrains, and by `recipes.demo`, which only looks; knows no torch.
"""

import hashlib
import random
from itertools import islice
from pathlib import Path

import msgspec

from recipes.demo.problems import corpus, make_sets

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "firesteel" / "demo"
ALPHABET = "0123456789+-=?/.;,:()\\{}abcdefghijklmnopqrstuvwxyz "


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the base model's weights, apart from the corpus itself."""

    seed: int = 0
    vocab_size: int = 64
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    intermediate_size: int = 256
    max_positions: int = 128
    rope_theta: float = 10000.0
    num_steps: int = 600
    batch_size: int = 128
    num_parts: int = 4
    """A batch is cut into so many parts of similar length."""
    learning_rate: float = 2e-3
    final_share: float = 0.02
    """The cosine ends at this share of the peak learning rate."""
    warmup_steps: int = 50
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0


def recipe_hash(recipe: Recipe) -> str:
    """Changes with every number of the recipe and with the corpus, of which the first batch speaks for the rest."""
    sample = list(islice(corpus(random.Random(recipe.seed), make_sets().all), recipe.batch_size))
    held_back = sorted(addition.id for addition in make_sets().all)
    return hashlib.sha256(msgspec.json.encode((recipe, ALPHABET, sample, held_back))).hexdigest()[:16]


def base_folder(recipe: Recipe, *, cache: Path = CACHE) -> Path:
    """Where the recipe's base model lies once it was pretrained: a folder there is whole."""
    return cache / recipe_hash(recipe)
