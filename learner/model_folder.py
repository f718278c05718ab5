"""Model folders: where a model lies, how it is loaded, and which of its files a checkpoint takes along.

Owns every contact with transformers' loaders. Called by `learner.policy` and `learner.checkpoint`; knows no rank and no training.
"""

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rlvr.config_paths import is_hub_id
from rlvr.errors import UserError

GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.model", "*.tiktoken")
REMOTE_CODE_FILES = ("*.py",)


def locate(model: str, *, revision: str = "") -> Path:
    """The local folder of a model folder or hub id; a hub id is fetched, or found in the cache. Raises UserError in one sentence."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"the model folder {model} has no config.json")
        return folder
    if not is_hub_id(model):
        raise UserError(f"the model folder {model} does not exist")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"the model {model} is no folder here and could not be fetched from the hub: {reason}") from error


def load(folder: Path, *, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """A causal language model on the CPU, in evaluation mode. Raises UserError where the folder holds none."""
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"the model folder {folder} cannot be loaded as a causal language model: {reason}") from error
    return model.eval()


def copy_files(source: Path, target: Path, *, with_code: bool) -> None:
    """Copy what training does not change, tokenizer and generation settings, byte for byte; with_code = True also the folder's own Python."""
    for pattern in (*TOKENIZER_FILES, GENERATION_CONFIG, *(REMOTE_CODE_FILES if with_code else ())):
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, target / file.name)
