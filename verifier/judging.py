"""The way of one completion to its judgement: extraction, memo, the parent's exact comparison, a sandboxed worker.

Owns the memo and the comparisons under way. Called by `verify`, from any thread. Rules, extraction and grader are fixed for its life, so an answer
and its gold are the whole key; faults of ours are never remembered.
"""

import collections
import functools
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import msgspec

from rlvr.config import RewardConfig
from rlvr.errors import FiresteelError, SandboxError
from rlvr.records import VerdictKind
from verifier.answers import literal_value
from verifier.graders import GRADERS, Grader
from verifier.memo import Memo
from verifier.nodes import Node, encode
from verifier.sandbox.pool import Pool
from verifier.sandbox.protocol import Question
from verifier.sandbox.tasks import Settled, Task

logger = logging.getLogger(__name__)

_MAX_ANSWERS = 100_000
_MAX_ANSWER = 512  # characters; longer ones are judged anew, so that hostile text cannot fill the memory
_MAX_TEXTS = 20_000
_MAX_TEXT = 2_048  # characters; only completions up to this length are remembered whole
_MAX_GOLDS = 1_024
_MAX_GOLD = 4_096

Key = tuple[str, str]
"""Extracted answer and gold."""


class Judgement(msgspec.Struct, frozen=True):
    """What became of one completion. rule: the rule that decided; stage: cache, parent or worker."""

    kind: VerdictKind
    answer: str | None
    rule: str
    stage: str
    seconds: float


class Pending(msgspec.Struct, frozen=True):
    """A comparison in a worker, shared by all completions with the same answer."""

    key: Key
    task: Task


class Judging:
    """Judges by one set of rules; thread-safe."""

    def __init__(self, config: RewardConfig) -> None:
        self.rules: collections.Counter[str] = collections.Counter()
        """Judgements by the rule that decided; those from the memo are left out."""
        self.num_misjudged = 0
        self._config = config
        self._grader = GRADERS[config.grader]
        self._answers: Memo[Key, tuple[VerdictKind, str]] = Memo(_MAX_ANSWERS)
        self._texts: Memo[Key, tuple[VerdictKind, str, str | None]] = Memo(_MAX_TEXTS)
        self._golds: Memo[str, Node | str] = Memo(_MAX_GOLDS)
        self._pending: dict[Key, Pending] = {}
        self._lock = threading.Lock()

    def begin(self, text: str, gold: str, pool: Pool) -> Judgement | Pending:
        """The judgement where the parent can give it, else the comparison that is under way in `pool`. A rule that raises is a fault of ours."""
        started = time.perf_counter()
        try:
            return self._begin(text, gold, pool, started)
        except FiresteelError:
            raise
        except Exception as cause:  # noqa: BLE001 - one text must not stop the verdicts of all others
            logger.error("a rule raised %s on a text of %d characters: no verdict", type(cause).__name__, len(text))
            return self._note(VerdictKind.SANDBOX, None, "raised", started)

    def _begin(self, text: str, gold: str, pool: Pool, started: float) -> Judgement | Pending:
        with self._lock:
            whole = self._texts.get((text, gold))
        if whole is not None:
            return Judgement(whole[0], whole[2], whole[1], "cache", time.perf_counter() - started)
        answer = self._grader.extract(text, self._config.extract)
        if answer is None:
            return self._note(VerdictKind.NO_ANSWER, None, "extract", started)
        key = (answer, gold)
        with self._lock:
            known = self._answers.get(key)
            if known is not None:
                if len(text) <= _MAX_TEXT:
                    self._texts.put((text, gold), (*known, answer))
                return Judgement(known[0], answer, known[1], "cache", time.perf_counter() - started)
            pending = self._pending.get(key)
        return pending or self._compare(key, started, pool)

    def end(self, begun: Judgement | Pending) -> Judgement:
        """The judgement; waits for the worker where one is asked. Raises SandboxError when the pool ended first."""
        if isinstance(begun, Judgement):
            return begun
        settled = begun.task.settled.result()
        with self._lock:
            if self._pending.pop(begun.key, None) is not None:
                self.rules[settled.stage] += 1
                if not settled.kind.is_ours:
                    self._remember(begun.key, settled.kind, settled.stage)
        return Judgement(settled.kind, begun.key[0], settled.stage, "worker", settled.seconds)

    def gold(self, gold: str) -> Node | str:
        """The gold's tree, or the sentence that says why there is none."""
        with self._lock:
            known = self._golds.get(gold)
        if known is None:
            known = _parsed_gold(self._grader, gold)
            if len(gold) <= _MAX_GOLD:
                with self._lock:
                    self._golds.put(gold, known)
        return known

    def judge_again(self, tasks: Sequence[Task], pool: Pool) -> None:
        """Forget what a broken worker may have judged, ask again, and count what comes out otherwise."""
        with self._lock:
            self._answers.clear()
            self._texts.clear()
        for task in [task for task in tasks if task.settled.done()]:
            fresh = Task(task.question, task.first, task.second)
            fresh.settled.add_done_callback(functools.partial(self._count_misjudged, task.settled.result().kind))
            pool.submit([fresh])

    def _compare(self, key: Key, started: float, pool: Pool) -> Judgement | Pending:
        answer, gold = key
        theirs = self.gold(gold)
        if isinstance(theirs, str):
            return self._note(VerdictKind.SANDBOX, answer, "gold", started)
        mine = self._grader.parse(answer)
        if mine is None:
            return self._note(VerdictKind.NO_ANSWER, answer, "grammar", started)
        if self._config.literal and not literal_value(answer):
            return self._note(VerdictKind.WRONG, answer, "literal", started)
        decision = self._grader.settle(mine, theirs, answer_text=answer, gold_text=gold)
        if decision is not None:
            return self._note(VerdictKind(decision.kind), answer, decision.stage, started, remember=key)
        return self._ask(key, Task(Question.DECIDE, encode(mine), encode(theirs)), pool)

    def _ask(self, key: Key, task: Task, pool: Pool) -> Pending:
        with self._lock:
            pending = self._pending.setdefault(key, Pending(key, task))
        if pending.task is task:
            try:
                pool.submit([task])
            except SandboxError:
                self._pending.pop(key, None)
                raise
        return pending

    def _note(self, kind: VerdictKind, answer: str | None, rule: str, started: float, *, remember: Key | None = None) -> Judgement:
        with self._lock:
            self.rules[rule] += 1
            if remember is not None:
                self._remember(remember, kind, rule)
        return Judgement(kind, answer, rule, "parent", time.perf_counter() - started)

    def _remember(self, key: Key, kind: VerdictKind, rule: str) -> None:
        """Under the lock."""
        if len(key[0]) <= _MAX_ANSWER:
            self._answers.put(key, (kind, rule))

    def _count_misjudged(self, before: VerdictKind, again: "Future[Settled]") -> None:
        if again.exception() is None and again.result().kind is not before:
            with self._lock:
                self.num_misjudged += 1
            logger.error("a verdict %s of a broken worker is %s: it may have trained", before, again.result().kind)


def _parsed_gold(grader: Grader, gold: str) -> Node | str:
    try:
        return grader.parse_gold(gold)
    except ValueError as cause:
        return str(cause)
