"""What the weight sender and its receivers say to each other through the sender's store, and under which keys.

Each receiver counts up its `alive` key while it lives, and only those that live are called. The sender appends events (`event/N`); receivers poll
for them, so nobody idles in a collective. `Called` names the members of the next group, `Formed` lets them build it, `Announced` precedes the
broadcast of a version. Each receiver answers a version with the digest that it computed itself, and reports what it staged to the watch of its
engine, which asks all receivers of the engine to hold a version before it is applied, or to drop one that is not.
Pure records and names; called by the two ends, knows no torch.
"""

import msgspec

from rlvr.records import Version

EVENTS_KEPT = 64
NUM_EVENTS_KEY = "events"
NEWEST_CALL_KEY = "newest_call"
"""The number of the newest `Called` event: a receiver that comes late, or slept, goes on there; events before it are of groups that are no more."""
LIFE_S = 0.5
"""Between two signs of life of a receiver."""
STAY = 2**40
"""One coming of a receiver in its count of signs of life. Who comes again under its name shares no group, report or request with its predecessor."""
POLL_S = 0.01
"""Between two looks at the store (a look takes some 50 microseconds). The store's own wait prints a warning whenever nothing came in time."""
KEPT_MAX = 2
"""Kept versions that a receiver has at most, each a whole model: one for the next evaluation, and one more so that the learner stops only where
evaluations are slower than training for longer than between two of them. Then the sender waits."""
REFUSED = "update refused, weights unchanged"
"""Stands in every refusal of a receiver; vLLM hands an error of its worker on as text."""
NOT_STAGED = "is not staged"
"""Stands in the refusal of a version that a receiver has not, or no more: the one refusal after which another look finds what to apply."""
HOLD, DROP = "hold", "drop"
"""What a watch asks of a receiver: to keep a version until it is taken, or to do without it."""
HELD, GONE = "held", "gone"
"""Answers to HOLD."""


def event_key(number: int) -> str:
    """Where event `number` stands, counted from 0."""
    return f"event/{number}"


def alive_key(name: str) -> str:
    """This receiver's signs of life, counted, and STAY for each time that one of this name has come."""
    return f"alive/{name}"


def joined_key(epoch: int, name: str) -> str:
    """Set by a receiver that is ready for the group of `epoch`, to the `content` of the newest version that it has, "" where it has none."""
    return f"joined/{epoch}/{name}"


def answer_key(sequence: int, name: str) -> str:
    """A receiver's answer to an announcement."""
    return f"answer/{sequence}/{name}"


def staged_key(name: str, stay: int, number: int) -> str:
    """The `number`-th version that this receiver staged whole in this stay."""
    return f"staged/{name}/{stay}/{number}"


def kept_key(name: str) -> str:
    """How many kept versions wait at this receiver."""
    return f"kept/{name}"


def ask_key(name: str, stay: int, number: int) -> str:
    """The `number`-th request of this receiver's watch: HOLD or DROP, and a version."""
    return f"ask/{name}/{stay}/{number}"


def held_key(name: str, stay: int, number: int) -> str:
    """The receiver's answer to that, where it was HOLD: HELD or GONE."""
    return f"held/{name}/{stay}/{number}"


def content(version: str, digest: str) -> str:
    """A version and its bits in one word: who has it need not stage it again."""
    return f"{version} {digest}"


class Called(msgspec.Struct, frozen=True, tag=True):
    """The members of the next group: the sender is rank 0, `members[i]` is rank i + 1. Each sets its `joined` key."""

    epoch: int
    members: tuple[str, ...]


class Formed(msgspec.Struct, frozen=True, tag=True):
    """All members of `epoch` have come: now each builds the group within `deadline_s`, which nobody has to wait for in vain."""

    epoch: int
    deadline_s: float


class Announced(msgspec.Struct, frozen=True, tag=True):
    """A version that the group of `epoch` broadcasts next: these tensors, in this order, as one flat run of bf16 values in chunks.

    A member that has it already takes part and answers, but stages nothing.
    """

    epoch: int
    sequence: int
    version: str
    digest: str
    keep: bool
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    chunk_values: int
    deadline_s: float


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
