"""Slips of the pen in manifests, and whether anything notices: a key that is misspelt, a value of another type.

Owns the making of mutants, in place and undone, and the judgement. What judges: the strict schemas, the operator's rules, the rules of this project.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import network_rules
import role_rules
import run_rules
import survival_rules
import traffic_rules
from object_schemas import refuses_part
from rendered import Object, Stream, leaves

Path = tuple[Any, ...]
RULES = (*role_rules.RULES, *survival_rules.RULES, *network_rules.RULES, *traffic_rules.RULES, *run_rules.RULES)


def own_faults(stream: Stream) -> list[str]:
    """What this project's own rules say of a stream."""
    return list(_own_faults(stream))


def _own_faults(stream: Stream) -> Iterator[str]:
    return (fault for rule in RULES for fault in rule(stream))


def is_noticed(stream: Stream, one: Object, path: Path) -> bool:
    """Whether anything notices that `one`, an object of the stream, was changed at `path`."""
    if refuses_part(one, path[:-1]):
        return True
    try:
        return next(_own_faults(stream), None) is not None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return True  # a rule that cannot read it fails its test


def places(one: Object) -> Iterator[tuple[Path, Any]]:
    """Every place where a slip can be made."""
    yield from list(leaves(one))


@contextmanager
def renamed(one: Object, path: Path) -> Iterator[bool]:
    """The key at `path` is misspelt inside the block. Gives False where there is no key but an index."""
    parent = _at(one, path[:-1])
    if not isinstance(parent, dict):
        yield False
        return
    before = dict(parent)
    _become(parent, {(f"{key}x" if key == path[-1] else key): value for key, value in before.items()})
    yield True
    _become(parent, before)


@contextmanager
def retyped(one: Object, path: Path) -> Iterator[bool]:
    """The value at `path` is of another type inside the block: a number or truth value as text, text in a list, a list as a map, a map as text."""
    parent = _at(one, path[:-1])
    before = parent[path[-1]]
    parent[path[-1]] = _other_type(before)
    yield True
    parent[path[-1]] = before


MUTATIONS: dict[str, Callable[[Object, Path], Any]] = {"renamed": renamed, "retyped": retyped}


def _other_type(value: Any) -> Any:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return [value]
        case list():
            return {"items": value}
        case _:
            return "text"


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _become(old: dict[str, Any], new: dict[str, Any]) -> None:
    old.clear()
    old.update(new)
