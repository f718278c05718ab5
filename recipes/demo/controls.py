"""The arms of the demo: each is `recipes/demo.toml` with a few overrides, so that nothing else differs.

Owns what the controls change. Called by `recipes.demo`; starts nothing.
"""

import json
from dataclasses import dataclass

from recipes.demo.problems import NO_CARRY_SISTER, SLOPPY_LABEL, THE_ONE, make_sets


@dataclass(frozen=True)
class Arm:
    name: str
    """Also the name of its run folder."""
    question: str
    """What it is run for."""
    overrides: tuple[str, ...] = ()
    """`--set` values, KEY=VALUE as a line of the run file."""


ONE_SHOT = Arm("one-shot", "does one problem raise accuracy on held-out problems?")
SIXTEEN_SHOT = Arm(
    "sixteen-shot",
    "do sixteen problems do more?",
    (
        "prompts.file=demo/sixteen.jsonl",
        f"prompts.problems={json.dumps([addition.id for addition in make_sets().sixteen])}",
        "rollout.group_size=8",
    ),
)
FORMAT_ONLY = Arm("format-only", "is it the box alone?", ("reward.kind=format",))
WRONG_LABEL = Arm("wrong-label", f"does it need the right label, or will {SLOPPY_LABEL} do?", (f"prompts.answers.{THE_ONE.id}={SLOPPY_LABEL}",))
NO_CARRY = Arm("no-carry", "must the one problem need the skill?", (f"prompts.problems={json.dumps([NO_CARRY_SISTER.id])}",))

ARMS = (ONE_SHOT, SIXTEEN_SHOT, FORMAT_ONLY, WRONG_LABEL, NO_CARRY)
