"""The schedule of a chaos run: who is struck how and at which moment, all of it from one seed.

Owns the deck. A pure function of seed, number of kills, roles and whether the disk can be filled; knows no process and no clock.
"""

import enum
import itertools
import random
from collections.abc import Sequence

import msgspec


class Role(enum.StrEnum):
    GENERATOR = "generator"
    ENGINE = "engine"  # the vLLM engine core below a generator
    VERIFIER = "verifier"
    SANDBOX = "sandbox"  # a zygote or worker below a verifier
    QUEUE = "queue"
    LEARNER = "learner"
    DRIVER = "driver"  # resumed afterwards
    DISK = "disk"  # the file system of the journal, filled for some seconds


class Kind(enum.StrEnum):
    KILL = "kill"  # SIGKILL
    STOP = "stop"  # SIGSTOP for ever: somebody has to find and replace it
    STALL = "stall"  # SIGSTOP, and SIGCONT later: it may come back after it was given up
    FULL = "full"


class Moment(enum.StrEnum):
    ANY = "any"
    BROADCAST = "broadcast"
    CHECKPOINT = "checkpoint"
    FSYNC = "fsync"


class Damage(enum.StrEnum):
    """What is done to the journal's tail while a killed driver is down."""

    NONE = "none"
    GARBAGE = "garbage"  # bytes that are no frame are appended
    CUT = "cut"  # bytes of the last frame go, as with a disk that lied


WEIGHTS = {Role.GENERATOR: 8, Role.ENGINE: 6, Role.VERIFIER: 6, Role.SANDBOX: 6, Role.QUEUE: 7, Role.LEARNER: 4, Role.DRIVER: 3}
MOMENTS = {
    Role.GENERATOR: (Moment.ANY, Moment.BROADCAST),
    Role.ENGINE: (Moment.ANY, Moment.BROADCAST),
    Role.VERIFIER: (Moment.ANY,),
    Role.SANDBOX: (Moment.ANY,),
    Role.QUEUE: (Moment.ANY, Moment.FSYNC, Moment.CHECKPOINT, Moment.FSYNC),
    Role.LEARNER: (Moment.ANY, Moment.BROADCAST, Moment.CHECKPOINT),
    Role.DRIVER: (Moment.ANY, Moment.CHECKPOINT, Moment.FSYNC),
}
STOPPED = (Role.GENERATOR, Role.QUEUE, Role.LEARNER, Role.VERIFIER, Role.ENGINE)
STALLED = (Role.GENERATOR, Role.QUEUE, Role.LEARNER, Role.VERIFIER, Role.SANDBOX, Role.DRIVER)
KILLS_PER_EXTRA = 8
"""One signal of each other kind for so many kills."""
KILLS_PER_FILL = 20
TOGETHER = 0.1
"""Chance that a strike does not wait until the one before it is healed."""


class Strike(msgspec.Struct, frozen=True, kw_only=True):
    """One blow. The numbers from 0 to 1 are scaled when it falls: `pause` to the time that is left, `pick` to the processes of the role."""

    number: int
    role: Role
    kind: Kind
    moment: Moment
    pause: float
    pick: float
    length: float
    """How long a stall or a full disk lasts."""
    damage: Damage = Damage.NONE
    is_joined: bool = False
    """Falls at once after the one before it."""


def make_schedule(seed: int, *, num_kills: int, roles: Sequence[Role], can_fill: bool) -> tuple[Strike, ...]:
    """`num_kills` SIGKILLs dealt over `roles`, and a few other blows between them; the same for the same arguments."""
    chance = random.Random(f"chaos/{seed}")
    blows = [(role, Kind.KILL) for role in _deal(num_kills, roles)]
    extra = num_kills // KILLS_PER_EXTRA
    for kind, among in ((Kind.STOP, STOPPED), (Kind.STALL, STALLED)):
        allowed = [role for role in among if role in roles]
        blows += [(allowed[place % len(allowed)], kind) for place in range(extra if allowed else 0)]
    blows += [(Role.DISK, Kind.FULL)] * (num_kills // KILLS_PER_FILL if can_fill else 0)
    chance.shuffle(blows)
    moments = {role: itertools.cycle(chance.sample(of_role, len(of_role))) for role, of_role in MOMENTS.items()}
    damages = itertools.cycle(chance.sample(list(Damage), len(Damage)))
    strikes: list[Strike] = []
    for number, (role, kind) in enumerate(blows, 1):
        is_joined = chance.random() < TOGETHER and bool(strikes) and _may_join(role, strikes[-1])
        strike = Strike(
            number=number,
            role=role,
            kind=kind,
            moment=next(moments[role]) if role in moments and not is_joined else Moment.ANY,
            pause=chance.random(),
            pick=chance.random(),
            length=chance.random(),
            damage=next(damages) if role is Role.DRIVER and kind is Kind.KILL else Damage.NONE,
            is_joined=is_joined,
        )
        strikes.append(strike)
    return tuple(strikes)


def _may_join(role: Role, before: Strike) -> bool:
    """Driver and disk stand alone: what they prove is the whole run's recovery. What is stalled is not struck beside."""
    return not {role, before.role} & {Role.DRIVER, Role.DISK} and role is not before.role and before.kind is not Kind.STALL


def _deal(number: int, roles: Sequence[Role]) -> list[Role]:
    """Roles in proportion to their weights, the largest remainders first; each at least once where there are enough."""
    total = sum(WEIGHTS[role] for role in roles)
    shares = {role: number * WEIGHTS[role] / total for role in roles}
    dealt = {role: int(share) for role, share in shares.items()}
    if number >= len(roles):
        dealt = {role: max(1, count) for role, count in dealt.items()}
    by_need = sorted(roles, key=lambda role: shares[role] - dealt[role], reverse=True)
    place = 0
    while sum(dealt.values()) != number:
        step = 1 if sum(dealt.values()) < number else -1
        role = by_need[place % len(by_need)] if step > 0 else max(dealt, key=lambda one: dealt[one])
        dealt[role] += step
        place += 1
    return [role for role in roles for _ in range(dealt[role])]
