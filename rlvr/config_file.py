"""Run files: TOML in, a checked `Config` out, and back.

Owns the reading, the overrides and the sentence that every mistake gets. Called by the command line. `load_config` is the only way to a checked
`Config`: what it returns has passed `rlvr.config_rules`, and each path in it is absolute (`rlvr.config_paths`).
"""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli_w
from msgspec import inspect

from rlvr import config_rules
from rlvr.config import Config
from rlvr.config_paths import resolve_paths
from rlvr.config_schema import LIST_MARK, Key, bare, explain, key_types, nearest_key, requirement, tables
from rlvr.errors import ConfigError

__all__ = ["Key", "dump_config", "explain", "load_config", "parse_config"]

Plain = dict[str, Any]
_LAST_INDEX = re.compile(r"\[[^\]]*\]$")  # of an item of a list or of a table of names, which the requirement of the key covers


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a run file and apply `K=V` overrides, each of which stands for a line of that file. Raises ConfigError, one sentence."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"the run file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the run file {path} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from error
    try:
        return parse_config(text, overrides, folder=path.absolute().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(text: str, overrides: Sequence[str] = (), *, folder: Path) -> Config:
    """As `load_config`, from the text of a run file that lies in `folder`."""
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"this is not TOML: {error}") from error
    for override in overrides:
        _apply(override, plain)
    config = resolve_paths(_convert(plain), folder)
    config_rules.check(config)
    return config


def dump_config(config: Config) -> str:
    """The whole configuration as TOML; loading it gives the same `Config` again. Keys that are left out stay out."""
    return tomli_w.dumps(_without_none(msgspec.to_builtins(config)))


def _convert(plain: Plain) -> Config:
    for name, value in _leaves(plain, prefix=""):
        _refuse_unknown(name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} must be {_requirement_of(name)}, got {value}")
    try:
        return msgspec.convert(plain, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_sentence(str(error), plain)) from error


def _leaves(plain: Mapping[str, Any], *, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every key with its value, by full name; tables are walked as long as the schema has them, lists of tables with `[]`."""
    for word, value in plain.items():
        name = f"{prefix}{word}"
        if "." in word:
            raise ConfigError(f'unknown key "{word}": a dotted name is written without quotes')
        if name in tables() and not isinstance(value, dict):
            raise ConfigError(f"{name} is a table, written [{name}] once, got {_show(value)}")
        if isinstance(value, dict) and value and not isinstance(key_types().get(name), inspect.DictType):
            yield from _leaves(value, prefix=name + ".")
        elif f"{name}{LIST_MARK}" in tables() and isinstance(value, list) and all(isinstance(item, dict) for item in value):
            for item in value:
                yield from _leaves(item, prefix=f"{name}{LIST_MARK}.")
        elif name not in tables():
            yield name, value


def _refuse_unknown(name: str) -> None:
    if name in key_types():
        return
    parent = name
    while "." in parent:
        parent = parent.rpartition(".")[0]
        if parent in key_types():  # a table was written where a value belongs
            raise ConfigError(f"{parent} must be {_requirement_of(parent)}, got a table")
    guess = nearest_key(name)
    hint = f"did you mean {guess}?" if guess else "`firesteel config` lists every key"
    raise ConfigError(f"unknown key {name}; {hint}")


def _sentence(message: str, plain: Plain) -> str:
    """What msgspec refused, in the words of the run file: the key, what was given, what would do."""
    found = re.search(r"`\$\.?([^`]*)`$", message)
    path = _LAST_INDEX.sub("", found.group(1)) if found else ""
    key = re.sub(r"\[\d+\]", LIST_MARK, path)
    if key not in key_types():
        return f"{path}: {message}"
    return f"{path} must be {_requirement_of(key)}, got {_show(_lookup(plain, path))}"


def _lookup(plain: Any, path: str) -> Any:
    for word in re.findall(r"[^.\[\]]+", path):
        plain = plain[int(word)] if isinstance(plain, list) else plain[word]
    return plain


def _requirement_of(name: str) -> str:
    return requirement(key_types()[name])


def _show(value: Any) -> str:
    """A value as the run file wrote it, cut to a sentence's length."""
    if isinstance(value, dict):
        shown = "{" + ", ".join(f"{word} = {_show(item)}" for word, item in value.items()) + "}"
    elif isinstance(value, list):
        shown = "[" + ", ".join(map(_show, value)) + "]"
    else:
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _apply(override: str, plain: Plain) -> None:
    """Write one `K=V` into the plain tables; V is TOML, or bare text where K takes a string."""
    name, equals, text = override.partition("=")
    name, text = name.strip(), text.strip()
    if not equals or not name:
        raise ConfigError(f"an override is written KEY=VALUE, as optimizer.learning_rate=1e-5, got {override!r}")
    if name in tables():
        raise ConfigError(f"{name} is a table: override one of its keys, as {name}.{_first_key_of(name)}=…")
    if name.startswith("evaluation.sets") and name != "evaluation.sets":
        raise ConfigError(f'{name} cannot be overridden alone: give the whole list, as evaluation.sets=[{{file="held_out.jsonl"}}]')
    *path, last = _path_of(name)
    kind = _kind_of(name)
    for word in path:
        plain = plain.setdefault(word, {})
        if not isinstance(plain, dict):
            raise ConfigError(f"{name} cannot be overridden: the run file gives {word} the value {_show(plain)} where a table belongs")
    plain[last] = _value(name, text, kind)


def _path_of(name: str) -> list[str]:
    """The tables and the key of an override. What follows a key that is itself a table of names is one name, dots and all."""
    for key, kind in key_types().items():
        if isinstance(kind, inspect.DictType) and name.startswith(key + "."):
            return [*key.split("."), name[len(key) + 1 :]]
    _refuse_unknown(name)
    return name.split(".")


def _kind_of(name: str) -> inspect.Type:
    if name in key_types():
        return key_types()[name]
    return next(bare(kind.value_type) for key, kind in key_types().items() if isinstance(kind, inspect.DictType) and name.startswith(key + "."))


def _value(name: str, text: str, kind: inspect.Type) -> Any:
    is_text = isinstance(kind, inspect.StrType) or (isinstance(kind, inspect.LiteralType) and all(isinstance(value, str) for value in kind.values))
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    if parsed.keys() == {"value"} and (isinstance(parsed["value"], str) or not is_text):
        return parsed["value"]
    if is_text:
        return text
    raise ConfigError(f"{name} must be {requirement(kind)}, got {text}")


def _first_key_of(table: str) -> str:
    return next(name for name in key_types() if name.startswith(table + "."))[len(table) + 1 :]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
