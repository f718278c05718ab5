"""The model's tokenizer: prompts to ids, completions to text, stop tokens to ids.

Owns what the rest need of `transformers` tokenizers. Called by the preparation of a run and by generators; needs no torch.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr.config import ModelConfig
from rlvr.errors import ConfigError

logger = logging.getLogger(__name__)


class Tokenizer:
    """One model's tokenizer."""

    def __init__(self, model: ModelConfig) -> None:
        from transformers import AutoTokenizer  # seconds to import: only where a model is really used

        self._model = model
        folder = Path(model.policy)
        if model.policy.startswith((".", "/")) and not (folder / "config.json").is_file():
            raise ConfigError(f"model.policy: {model.policy} is no model folder (it has no config.json); give a Hugging Face folder or a hub id")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                model.policy, revision=model.revision or "main", trust_remote_code=model.trust_remote_code
            )
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError(f"model.policy: the tokenizer of {model.policy} cannot be loaded ({first}); give a model folder or a hub id") from error

    @property
    def max_model_len(self) -> int:
        """Tokens that the model's positions hold, prompt and completion together."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(
            self._model.policy, revision=self._model.revision or "main", trust_remote_code=self._model.trust_remote_code
        )
        return int(config.max_position_embeddings)

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
        ids = []
        for token in tokens:
            token_id = self._tokenizer.convert_tokens_to_ids(token)
            if token_id is None or (token_id == self._tokenizer.unk_token_id and token != self._tokenizer.unk_token):
                raise ConfigError(f"{key}: {token!r} is not one token of this model's tokenizer; its end token is {self._tokenizer.eos_token!r}")
            ids.append(token_id)
        return tuple(ids)
