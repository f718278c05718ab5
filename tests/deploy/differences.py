"""Where two streams of manifests differ: places by the names that things have, not by their numbers in a list.

Owns the comparison; what may differ is for tests to say.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rendered import Stream

NAMES = ("groupName", "name", "port")
"""By the first of these that every entry of a list has, its entries are called."""


def differences(left: Stream, right: Stream) -> set[str]:
    """`KIND/NAME` of an object that one of them lacks, else `KIND/NAME key.key...` of the outermost place that differs."""
    before, after = _by_name(left), _by_name(right)
    both = before.keys() & after.keys()
    return (before.keys() ^ after.keys()) | {f"{name} {place}" for name in both for place in places(before[name], after[name])}


def places(left: Any, right: Any, path: str = "") -> Iterator[str]:
    """Of two values, the outermost places that differ."""
    left, right = _as_mapping(left), _as_mapping(right)
    if not (isinstance(left, Mapping) and isinstance(right, Mapping)):
        yield from () if left == right else (path,)
        return
    for key in sorted({*left, *right}):
        inner = f"{path}.{key}".removeprefix(".")
        yield from places(left[key], right[key], inner) if key in left and key in right else (inner,)


def _as_mapping(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        for name in NAMES:
            if all(name in entry for entry in value):
                return {str(entry[name]): entry for entry in value}
    return value


def _by_name(stream: Stream) -> dict[str, Any]:
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in stream}
