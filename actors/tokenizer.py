"""The model's tokenizer: prompts to ids, completions to text, stop tokens to ids.

Owns what the rest need of `transformers` tokenizers. Called by the preparation of a run and by generators; needs no torch.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr.config import ModelConfig
from rlvr.config_paths import is_hub_id
from rlvr.errors import ConfigError

logger = logging.getLogger(__name__)

LENGTH_KEYS = ("max_position_embeddings", "max_seq_len", "seq_length")
"""What models call the number of their positions."""


def check_model(model: ModelConfig, name: str, *, key: str) -> Any:
    """The configuration of the model `name`, a folder or hub id, as transformers reads it. Raises ConfigError naming `key` where there is none."""
    from transformers import AutoConfig

    revision = model.revision if name == model.policy else ""
    try:
        return AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"{key}: the configuration of {name} cannot be loaded ({_first_line(error)}); give a model folder or a hub id") from error


class Tokenizer:
    """One model's tokenizer."""

    def __init__(self, model: ModelConfig) -> None:
        from transformers import AutoTokenizer  # seconds to import: only where a model is really used

        self._model = model
        if not is_hub_id(model.policy) and not (Path(model.policy) / "config.json").is_file():
            raise ConfigError(f"model.policy: {model.policy} is no model folder (it has no config.json); give a Hugging Face folder or a hub id")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                model.policy, revision=model.revision or "main", trust_remote_code=model.trust_remote_code
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = _first_line(error)
            raise ConfigError(
                f"model.policy: the tokenizer of {model.policy} cannot be loaded ({reason}); give a model folder or a hub id"
            ) from error

    @property
    def max_model_len(self) -> int:
        """Tokens that the model's positions hold, prompt and completion together. Raises ConfigError where its configuration does not say."""
        config = check_model(self._model, self._model.policy, key="model.policy").get_text_config()
        for key in LENGTH_KEYS:
            if getattr(config, key, None) is not None:
                return int(getattr(config, key))
        raise ConfigError(
            f"model.policy: the configuration of {self._model.policy} does not say how many tokens it holds; known names are {', '.join(LENGTH_KEYS)}"
        )

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer by the model's own account: its generation configuration, else its tokenizer's end token."""
        file = Path(self._model.policy) / "generation_config.json"
        given = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
        if given is None:
            given = self._tokenizer.eos_token_id
        ids = given if isinstance(given, list) else [given]
        return tuple(token_id for token_id in ids if token_id is not None)

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self._tokenizer, "chat_template", None))

    def chat(self, messages: list[dict[str, str]]) -> str:
        """The model's own chat template, up to where the assistant begins."""
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a whole prompt. Nothing is added: a template writes its own special tokens."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text as the verifier reads it: special tokens left out."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def stop_token_ids(self, tokens: Sequence[str], *, key: str) -> tuple[int, ...]:
        """Ids of stop tokens. Raises ConfigError naming `key` where one is not a single token of this tokenizer."""
        ids = {token: self._id_of(token) for token in tokens}
        unknown = [token for token, token_id in ids.items() if token_id is None]
        if unknown:
            raise ConfigError(f"{key}: {unknown[0]!r} is not one token of this model's tokenizer; its end token is {self._tokenizer.eos_token!r}")
        return tuple(token_id for token_id in ids.values() if token_id is not None)

    def known_stop_token_ids(self, tokens: Sequence[str], *, key: str) -> tuple[int, ...]:
        """Ids of those stop tokens that this tokenizer has; the others, which no completion can hold, are named in a warning.

        Raises ConfigError naming `key` where tokens are asked for and none is left.
        """
        unknown = ", ".join(repr(token) for token in tokens if self._id_of(token) is None)
        known = [token for token in tokens if self._id_of(token) is not None]
        if tokens and not known:
            raise ConfigError(f"{key}: this model's tokenizer has none of {unknown} as one token; its end token is {self._tokenizer.eos_token!r}")
        if unknown:
            logger.warning("%s: %s not one token of this model's tokenizer, so nothing stops there; leave them out to silence this", key, unknown)
        return self.stop_token_ids(known, key=key)

    def _id_of(self, token: str) -> int | None:
        token_id: int | None = self._tokenizer.convert_tokens_to_ids(token)
        return None if token_id == self._tokenizer.unk_token_id and token != self._tokenizer.unk_token else token_id


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).strip().splitlines() if line.strip()), type(error).__name__)
