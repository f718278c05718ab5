"""What the weight sender and its receivers say to each other through the sender's store, and under which keys.

The sender appends events (`event/N`); receivers poll for them, so nobody idles in a collective. `Called` names the members of the next group,
`Formed` lets them build it, `Announced` precedes the broadcast of a version. Each receiver answers a version with the digest that it computed itself.
Pure records and names; called by the two ends, knows no torch.
"""

import msgspec

from rlvr.records import Version

EVENTS_KEPT = 64
NUM_EVENTS_KEY = "events"
NEWEST_CALL_KEY = "newest_call"
REFUSED = "update refused, weights unchanged"
"""Stands in every refusal of a receiver; vLLM hands an error of its worker on as text."""
NOT_STAGED = "is not staged"
"""The number of the newest `Called` event: a receiver that comes late begins there, and so need not come before its group is called."""


def event_key(number: int) -> str:
    """Where event `number` stands, counted from 0."""
    return f"event/{number}"


def joined_key(epoch: int, name: str) -> str:
    """Set by a receiver that is ready for the group of `epoch`."""
    return f"joined/{epoch}/{name}"


def answer_key(sequence: int, name: str) -> str:
    """A receiver's answer to an announcement."""
    return f"answer/{sequence}/{name}"


def staged_key(name: str, number: int) -> str:
    """The `number`-th version that this receiver staged whole."""
    return f"staged/{name}/{number}"


class Called(msgspec.Struct, frozen=True, tag=True):
    """The members of the next group: the sender is rank 0, `members[i]` is rank i + 1. Each sets its `joined` key."""

    epoch: int
    members: tuple[str, ...]


class Formed(msgspec.Struct, frozen=True, tag=True):
    """All members of `epoch` have come: now each builds the group, which nobody has to wait for in vain."""

    epoch: int


class Announced(msgspec.Struct, frozen=True, tag=True):
    """A version that the group of `epoch` broadcasts next: these tensors, in this order, as one flat run of bf16 values in chunks."""

    epoch: int
    sequence: int
    version: str
    digest: str
    keep: bool
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    chunk_values: int


Event = Called | Formed | Announced


class Answer(msgspec.Struct, frozen=True):
    """What a receiver made of an announced version: its own digest, or why it has none."""

    digest: str = ""
    error: str = ""


class StagedVersion(msgspec.Struct, frozen=True):
    """A whole, checked version that waits to be applied."""

    version: Version
    keep: bool = False
    """It survives newer ones until it is taken: somebody evaluates it."""


def receiver_names(generator: str, *, tensor_parallel: int = 1) -> tuple[str, ...]:
    """The members that one generator brings to a group: each of its workers receives for itself."""
    return tuple(f"{generator}.{rank}" for rank in range(tensor_parallel))
