"""The demo's task: additions in four notations, the sets made of them, and the five habits that the pretraining corpus mixes.

Owns texts, gold answers and sets. Called by `recipes.demo.base` for the corpus; `python -m recipes.demo.problems` writes the problem files that lie
beside it. Pure Python: knows no torch and no tokenizer.
"""

import enum
import json
import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import assert_never

SETS_SEED = 1234
OPERANDS = (11, 99)
DENOMINATORS = (3, 4, 6, 7, 8, 9)
CARRY_PROBABILITY = 0.75
HELDOUT_PER_KIND = 50
SIXTEEN_PER_KIND = 4
GUESS_RIGHT_PROBABILITY = 0.1
GUESS_ERRORS = (1, 12)


class Kind(enum.StrEnum):
    INT = "int"
    NEG = "neg"
    DEC = "dec"
    FRAC = "frac"


class Habit(enum.StrEnum):
    CAREFUL_BOX = "careful box"
    CAREFUL_NO_BOX = "careful no box"
    SLOPPY_BOX = "sloppy box"
    SLOPPY_NO_BOX = "sloppy no box"
    GUESS = "guess"


MIXTURE: dict[Kind, tuple[float, ...]] = {
    Kind.INT: (0.20, 0.30, 0.12, 0.18, 0.20),
    Kind.NEG: (0.36, 0.14, 0.22, 0.08, 0.20),
    Kind.DEC: (0.14, 0.11, 0.30, 0.20, 0.25),
    Kind.FRAC: (0.12, 0.10, 0.28, 0.20, 0.30),
}
"""Mixture `main`: how often each habit, in the order of `Habit`, writes the completion of a problem of that kind."""


@dataclass(frozen=True)
class Addition:
    """One problem; `denominator` is 0 except in fractions."""

    kind: Kind
    x: int
    y: int
    denominator: int = 0

    @property
    def id(self) -> str:
        return "-".join([self.kind, str(self.x), str(self.y)] + [str(self.denominator)] * (self.denominator > 0))

    @property
    def prompt(self) -> str:
        if self.kind is Kind.NEG:
            return f"{self.show(self.x)}{self.show(self.y)}=?"
        return f"{self.show(self.x)}+{self.show(self.y)}=?"

    @property
    def gold(self) -> str:
        """The exact value in lowest terms, such as `64/5` or `16`."""
        return str(self.value(self.x + self.y))

    @property
    def carries(self) -> bool:
        return self.x % 10 + self.y % 10 >= 10

    def show(self, number: int) -> str:
        """Write `number` in the notation of this kind; fractions are not reduced."""
        match self.kind:
            case Kind.INT:
                return str(number)
            case Kind.NEG:
                return f"-{number}"
            case Kind.DEC:
                return f"{number // 10}.{number % 10}"
            case Kind.FRAC:
                return f"{number}/{self.denominator}"
            case unknown:
                assert_never(unknown)

    def value(self, number: int) -> Fraction:
        """What `show(number)` is worth."""
        match self.kind:
            case Kind.INT:
                return Fraction(number)
            case Kind.NEG:
                return Fraction(-number)
            case Kind.DEC:
                return Fraction(number, 10)
            case Kind.FRAC:
                return Fraction(number, self.denominator)
            case unknown:
                assert_never(unknown)


THE_ONE = Addition(Kind.DEC, 69, 59)
"""The one problem that the demo trains on: 6.9+5.9=?"""
NO_CARRY_SISTER = Addition(Kind.DEC, 62, 57)
"""Its sister without a carry, on which careful and sloppy work are both right."""
SLOPPY_LABEL = "59/5"
"""What sloppy work answers to the one problem (11.8): the wrong label of the control."""


def draw(rng: random.Random, kind: Kind | None = None) -> Addition:
    """One random problem; of a random kind where none is given."""
    kind = rng.choice(list(Kind)) if kind is None else kind
    carries = rng.random() < CARRY_PROBABILITY
    while True:
        x, y = rng.randint(*OPERANDS), rng.randint(*OPERANDS)
        addition = Addition(kind, x, y, rng.choice(DENOMINATORS) if kind is Kind.FRAC else 0)
        if addition.carries == carries:
            return addition


def draw_unseen(rng: random.Random, excluded: Collection[Addition], kind: Kind | None = None) -> Addition:
    """One random problem that is not among `excluded`."""
    while True:
        addition = draw(rng, kind)
        if addition not in excluded:
            return addition


@dataclass(frozen=True)
class Sets:
    """The demo's problem sets: no problem stands in two of them."""

    training: tuple[Addition, ...]
    """The one problem and its sister."""
    heldout: tuple[Addition, ...]
    sixteen: tuple[Addition, ...]

    @property
    def all(self) -> frozenset[Addition]:
        return frozenset(self.training + self.heldout + self.sixteen)


def make_sets() -> Sets:
    """The sets, always the same: drawn from `random.Random(1234)`, the kinds in turn, first the held-out problems, then the sixteen."""
    rng = random.Random(SETS_SEED)
    training = (THE_ONE, NO_CARRY_SISTER)
    taken = set(training)

    def draw_set(per_kind: int) -> tuple[Addition, ...]:
        members = []
        for _ in range(per_kind):
            for kind in Kind:
                members.append(draw_unseen(rng, taken, kind))
                taken.add(members[-1])
        return tuple(members)

    heldout = draw_set(HELDOUT_PER_KIND)
    return Sets(training=training, heldout=heldout, sixteen=draw_set(SIXTEEN_PER_KIND))


def completion(addition: Addition, habit: Habit, *, guess_error: int = 0) -> str:
    """What `habit` writes for `addition`. A guess is off by `guess_error`; careful work writes its carry, also `+0`."""
    (x_tens, x_units), (y_tens, y_units) = divmod(addition.x, 10), divmod(addition.y, 10)
    units, tens, total = x_units + y_units, x_tens + y_tens, addition.x + addition.y
    carry = units // 10
    careful = f"{x_units}+{y_units}={units};{x_tens}+{y_tens}+{carry}={tens + carry};"
    sloppy = f"{x_units}+{y_units}={units};{x_tens}+{y_tens}={tens};"
    forgotten = addition.show(total - 10 * carry)
    match habit:
        case Habit.CAREFUL_BOX:
            return careful + boxed(addition.show(total))
        case Habit.CAREFUL_NO_BOX:
            return f"{careful}so {addition.show(total)}"
        case Habit.SLOPPY_BOX:
            return sloppy + boxed(forgotten)
        case Habit.SLOPPY_NO_BOX:
            return f"{sloppy}so {forgotten}"
        case Habit.GUESS:
            return boxed(addition.show(total + guess_error))
        case unknown:
            assert_never(unknown)


def boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"


def draw_guess_error(rng: random.Random) -> int:
    if rng.random() < GUESS_RIGHT_PROBABILITY:
        return 0
    return rng.choice((-1, 1)) * rng.randint(*GUESS_ERRORS)


def corpus(rng: random.Random, excluded: Collection[Addition]) -> Iterator[tuple[str, str]]:
    """Endless (prompt, completion) pairs, each freshly drawn; the problems of `excluded` never occur."""
    habits = list(Habit)
    while True:
        addition = draw_unseen(rng, excluded)
        habit = rng.choices(habits, MIXTURE[addition.kind])[0]
        guess_error = draw_guess_error(rng) if habit is Habit.GUESS else 0
        yield addition.prompt, completion(addition, habit, guess_error=guess_error)


def write_sets(folder: Path) -> None:
    """Write problems.jsonl, heldout.jsonl and sixteen.jsonl: one problem a line, as `rlvr.problems` reads it."""
    sets = make_sets()
    for name, members in (("problems", sets.training), ("heldout", sets.heldout), ("sixteen", sets.sixteen)):
        (folder / f"{name}.jsonl").write_text(as_jsonl(members), encoding="utf-8")


def as_jsonl(additions: Iterable[Addition]) -> str:
    return "".join(json.dumps({"id": each.id, "prompt": each.prompt, "answer": each.gold}) + "\n" for each in additions)


if __name__ == "__main__":
    write_sets(Path(__file__).parent)
