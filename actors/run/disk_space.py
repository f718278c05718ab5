"""What a run's checkpoints and version log will take on the disk, told from the model's weights before anything is written.

Owns the estimate. Called by the run folder's check; reads the header of a safetensors file, never the weights. Needs no torch.
"""

import json
import math
from pathlib import Path

from rlvr.config import Config

PUBLISHED_BYTES = 2
"""Of a parameter in a checkpoint's model folder: bf16."""
STATE_TENSORS = 3
"""Of a parameter in a checkpoint's exact state: master weight and AdamW's two moments, all in model.param_dtype."""
LOGGED_VERSIONS = 3
"""Whole versions in the version log at once: the newest two and the one being written. Those that wait for their evaluation are not foreseen."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER_BYTES = 100 * 2**20


def weights_bytes(config: Config) -> int | None:
    """Bytes of the checkpoints and versions that lie on the disk at once; None for a model whose size is not known here, such as one of a hub."""
    num_params = count_params(Path(config.model.policy))
    if num_params is None:
        return None
    checkpoint = PUBLISHED_BYTES + STATE_TENSORS * DTYPE_BYTES[config.model.param_dtype]
    return num_params * (checkpoint * checkpoints_at_once(config) + PUBLISHED_BYTES * LOGGED_VERSIONS)


def checkpoints_at_once(config: Config) -> int:
    """learner.keep and the one being written, where the run makes so many."""
    run = config.run
    made = -(-run.num_steps // run.checkpoint_every_steps) if run.checkpoint_every_steps else 1
    return min(made, config.learner.keep + 1)


def count_params(folder: Path) -> int | None:
    """Parameters of a model folder; None where it holds no safetensors that can be read."""
    index = folder / INDEX
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values())) if index.is_file() else [SINGLE]
        return sum(_params_of_file(folder / name) for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _params_of_file(file: Path) -> int:
    """A safetensors file begins with the length of its header, then the header: tensors by name, each with its shape."""
    with file.open("rb") as weights:
        length = int.from_bytes(weights.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{file} has no safetensors header")
        header = json.loads(weights.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
