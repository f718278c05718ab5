"""Pairs whose verdict is known, with a constant that nobody can guess: a worker that misjudges one judges nothing more.

Owns the spelling of the pairs. Called by `pool` after each fork and every so many requests.
"""

import secrets

import msgspec

from verifier.answers import parse
from verifier.nodes import encode
from verifier.sandbox.protocol import Outcome

_SMALLEST, _SPAN = 1_000, 1_000_000


class Sentinel(msgspec.Struct, frozen=True):
    """Two encoded trees and the only outcome of a sound worker."""

    answer: bytes
    gold: bytes
    expected: Outcome


def draw() -> tuple[Sentinel, ...]:
    """One equal and one different pair about a random constant, in random order."""
    constant = _SMALLEST + 2 * secrets.randbelow(_SPAN)
    pairs = [
        Sentinel(_tree(rf"\frac{{\sqrt{{{constant}}}}}{{{constant}}}"), _tree(rf"\frac{{1}}{{\sqrt{{{constant}}}}}"), Outcome.CORRECT),
        Sentinel(_tree(rf"\sqrt{{{constant}}}"), _tree(rf"\sqrt{{{constant + 1}}}"), Outcome.WRONG),
    ]
    return tuple(pairs if secrets.randbits(1) else reversed(pairs))


def _tree(latex: str) -> bytes:
    node = parse(latex)
    assert node is not None, latex
    return encode(node)
