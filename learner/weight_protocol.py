"""What the weight sender and its receivers say to each other through the sender's store, and under which keys.

The sender appends events (`event/N`); receivers poll for them, so nobody idles in a collective. `Called` names the members of the next group,
`Formed` lets them build it, `Announced` precedes the broadcast of a version. Each receiver answers a version with the digest that it computed itself,
and reports what it staged to the watch of its engine, which asks all receivers of the engine to hold a version before it is applied.
Pure records and names; called by the two ends, knows no torch.
"""

import msgspec

from rlvr.records import Version

EVENTS_KEPT = 64
NUM_EVENTS_KEY = "events"
NEWEST_CALL_KEY = "newest_call"
"""The number of the newest `Called` event: a receiver that comes late begins there, and so need not come before its group is called."""
POLL_S = 0.01
"""Between two looks at the store (a look takes some 50 microseconds). The store's own wait prints a warning whenever nothing came in time."""
KEPT_MAX = 2
"""Kept versions that a receiver has at most, each a whole model: one for the next evaluation, and one more so that the learner stops only where
evaluations are slower than training for longer than between two of them. Then the sender waits."""
REFUSED = "update refused, weights unchanged"
"""Stands in every refusal of a receiver; vLLM hands an error of its worker on as text."""
NOT_STAGED = "is not staged"
"""Stands in the refusal of a version that a receiver has not, or no more: the one refusal after which another look finds what to apply."""
HELD, GONE = "held", "gone"
"""Answers to a question whether a receiver holds a version."""


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


def kept_key(name: str) -> str:
    """How many kept versions wait at this receiver."""
    return f"kept/{name}"


def hold_key(name: str, number: int) -> str:
    """The `number`-th version that this receiver is asked to hold."""
    return f"hold/{name}/{number}"


def held_key(name: str, number: int) -> str:
    """The receiver's answer to that: HELD or GONE."""
    return f"held/{name}/{number}"


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
