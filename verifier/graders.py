"""Graders by name: ours, and the two of the paper as presets.

Owns the interface that `reward.grader` and `evaluation.grader` choose from. The presets follow the paper's two programs in what they accept and
refuse, on our own parser: nothing is executed, and where they would ask sympy about text, `settle` answers None and a worker decides on our trees.
Called by the verifier; the rules of the presets stand in `verifier.presets`.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from rlvr.config import Extract
from verifier import answers, compare, presets
from verifier.compare import Decision
from verifier.extract import extract
from verifier.nodes import Node


class Settle(Protocol):
    def __call__(self, answer: Node, gold: Node, *, answer_text: str = "", gold_text: str = "") -> Decision | None: ...


class Grader(NamedTuple):
    """How answers are found, read and compared under one name; a worker's `decide` is the same for all."""

    name: str
    extract: Callable[[str, Extract], str | None]
    parse: Callable[[str], Node | None]
    parse_gold: Callable[[str], Node]
    settle: Settle


GRADERS: dict[str, Grader] = {
    grader.name: grader
    for grader in (
        Grader("firesteel", extract, answers.parse, answers.parse_gold, compare.settle),
        Grader("deepscaler_math", presets.deepscaler_extract, presets.deepscaler_parse, presets.deepscaler_gold, presets.deepscaler_settle),
        Grader("qwen25_math", presets.qwen_extract, presets.qwen_parse, presets.qwen_gold, presets.qwen_settle),
    )
}
