"""The run file's keys as data: what each is called, takes, defaults to and means.

Owns the reading of `rlvr.config`'s annotations; `rlvr.config_file` refuses mistakes with it, `firesteel config` prints it. Knows no file.
"""

import difflib
import functools
import json
from collections.abc import Iterable
from typing import Any, get_args

import msgspec
from msgspec import Meta, inspect

from rlvr.config import Config

_UNITS = {"_s": "seconds", "_gib": "GiB", "_mib": "MiB", "_steps": "steps", "_tokens": "tokens", "_clamp": "nats", "_staleness": "versions"}
LIST_MARK = "[]"  # stands behind the name of a table that may be given several times


class Key(msgspec.Struct, frozen=True):
    """One key of the run file. type: what it takes, in words. default: as TOML would write it; empty where the key may be left out.

    unit: of a number, empty where it is a count or a ratio.
    """

    name: str
    type: str
    default: str
    meaning: str
    unit: str = ""


@functools.cache
def explain() -> tuple[Key, ...]:
    """Every key, in the order of the tables; the keys of `[[evaluation.sets]]` are named `evaluation.sets[].…`."""
    return tuple(_keys_of(Config, prefix=""))


@functools.cache
def key_types() -> dict[str, inspect.Type]:
    """The type of every key by its full name."""
    return dict(_types_of(Config, prefix=""))


@functools.cache
def tables() -> frozenset[str]:
    """The full names of all tables."""
    return frozenset(name[: name.rindex(".")] for name in key_types() if "." in name) | {"evaluation.sets[]"}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, if any is."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def nearest_key(name: str) -> str | None:
    """The key that somebody who wrote `name` meant: the same word in another table, else the most similar one of its table, else of all."""
    table, _, word = name.rpartition(".")
    same_word = [key for key in key_types() if key.rpartition(".")[2] == word]
    if same_word:
        return nearest(name, same_word) or same_word[0]
    return nearest(name, [key for key in key_types() if key.rpartition(".")[0] == table]) or nearest(name, key_types())


def requirement(kind: inspect.Type) -> str:
    """What a value of this type must be, as the end of "must be …"."""
    match kind:
        case inspect.Metadata(type=inner):
            return requirement(inner)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "an integer" + _bounds(kind)
        case inspect.FloatType():
            return "a number" + _bounds(kind)
        case inspect.StrType(min_length=least):
            return "a non-empty string" if least else "a string"
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(json.dumps, values))}" if len(values) > 1 else json.dumps(values[0])
        case inspect.UnionType(types=types):
            return " or ".join(requirement(member) for member in types if not isinstance(member, inspect.NoneType))
        case inspect.VarTupleType(item_type=inspect.StructType()):
            return "a list of tables, each headed by double brackets"
        case inspect.VarTupleType(item_type=item):
            return f"a list, each item {requirement(item)}"
        case inspect.TupleType(item_types=items):
            return f"a list of {len(items)} items, each {requirement(items[0])}"
        case inspect.DictType(value_type=value):
            return f"a table of names, each with {requirement(value)}"
        case inspect.StructType():
            return "a table"
    raise AssertionError(f"rlvr.config uses a type that nobody explains: {kind}")


def to_toml(value: Any) -> str:
    """A default as TOML writes it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    words = [f"{sign} {bound:.12g}" for sign, bound in ((">=", kind.ge), (">", kind.gt), ("<=", kind.le), ("<", kind.lt)) if bound is not None]
    return " " + " and ".join(words) if words else ""


def _keys_of(table: type[msgspec.Struct], *, prefix: str) -> Iterable[Key]:
    for field in msgspec.structs.fields(table):
        name, inner = f"{prefix}{field.name}", _table_of(field.type)
        if inner is not None:
            yield from _keys_of(inner, prefix=name + ".")
            continue
        kind = inspect.type_info(field.type)
        given = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        default = "" if given is None else to_toml(given)
        yield Key(name=name, type=requirement(kind), default=default, meaning=_meaning(field.type), unit=_unit(field.name, kind))
        if isinstance(kind, inspect.Metadata) and isinstance(kind.type, inspect.VarTupleType) and isinstance(kind.type.item_type, inspect.StructType):
            yield from _keys_of(kind.type.item_type.cls, prefix=f"{name}{LIST_MARK}.")


def _types_of(table: type[msgspec.Struct], *, prefix: str) -> Iterable[tuple[str, inspect.Type]]:
    for field in msgspec.structs.fields(table):
        name, inner = f"{prefix}{field.name}", _table_of(field.type)
        if inner is not None:
            yield from _types_of(inner, prefix=name + ".")
            continue
        kind = bare(inspect.type_info(field.type))
        yield name, kind
        if isinstance(kind, inspect.VarTupleType) and isinstance(kind.item_type, inspect.StructType):
            yield from _types_of(kind.item_type.cls, prefix=f"{name}{LIST_MARK}.")


def bare(kind: inspect.Type) -> inspect.Type:
    """A type without the description around it."""
    return bare(kind.type) if isinstance(kind, inspect.Metadata) else kind


def _table_of(annotation: Any) -> type[msgspec.Struct] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct) else None


def _unit(name: str, kind: inspect.Type) -> str:
    is_number = requirement(kind).startswith(("an integer", "a number"))
    return next((unit for ending, unit in _UNITS.items() if is_number and name.endswith(ending)), "")


def _meaning(annotation: Any) -> str:
    found = [meta.description for meta in get_args(annotation) if isinstance(meta, Meta) and meta.description]
    return found[0] if found else ""
