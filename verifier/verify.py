"""The verifier: completions and gold answers in, verdicts out, in order, from any thread, whatever the text.

Owns the way of one completion: extraction, memo, the parent's own exact comparison, the sandboxed worker, the reward. Called by the verifier actors,
the evaluation and `firesteel verify`. Never imports sympy; a hang, a crash or a lie behind it is a verdict kind, never an exception.
"""

import collections
import concurrent.futures
import functools
import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Self

import msgspec

from rlvr.config import Config, RewardConfig, VerifiersConfig
from rlvr.errors import SandboxError, UserError
from rlvr.records import Unverified, Verdict, VerdictKind
from verifier import rewards
from verifier.compare import settle
from verifier.extract import extract
from verifier.grammar import literal_value, parse, parse_gold
from verifier.nodes import Node, encode
from verifier.sandbox import sentinels
from verifier.sandbox.crew import CrewSettings
from verifier.sandbox.lock import LAYERS, Limits
from verifier.sandbox.pool import Pool
from verifier.sandbox.protocol import Question, rules_number
from verifier.sandbox.tasks import Settled, Task
from verifier.sandbox.zygote import Setup
from verifier.version import RULES_VERSION

logger = logging.getLogger(__name__)

_MAX_REMEMBERED = 200_000
_MAX_GOLDS = 4_096
_LIFETIME_CPU_S = 600
_ESSENTIAL = ("rlimits", "parent_death", "no_new_privs")


class Layer(msgspec.Struct, frozen=True):
    """One layer of the workers' lock: whether it took effect, and the kernel's reason where it did not."""

    name: str
    works: bool
    reason: str = ""


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start."""

    kinds: dict[str, int]
    stages: dict[str, int]
    """cache, parent, worker"""
    rules: dict[str, int]
    """By the rule that decided, cache hits left out."""
    kills: dict[str, int]
    """Workers given up, by reason; `recycled` is no fault."""
    cache_hits: int
    workers: int
    waiting: int
    forks: int
    ready_seconds: float
    zygotes: int
    retried: int
    misjudged: int
    """Verdicts that came out otherwise when a worker that judged them was found broken."""


class _Judgement(msgspec.Struct, frozen=True):
    kind: VerdictKind
    rule: str
    stage: str
    seconds: float


class _Pending(msgspec.Struct):
    """A comparison in a worker, shared by all completions with the same answer."""

    task: Task
    key: tuple[str, str]


class Verifier:
    """Judges completions with `verifiers.workers` sandboxed children; a context manager, or `start` and `close`."""

    def __init__(self, verifiers: VerifiersConfig | None = None, reward: RewardConfig | None = None, *, seed: int = 0) -> None:
        self._verifiers = verifiers or VerifiersConfig()
        self._config = reward or RewardConfig()
        self._reward = rewards.built_in(self._config, seed=seed)
        self._users_reward = "" if self._reward else rewards.users_reward(self._config.kind)
        self._memo: collections.OrderedDict[tuple[str, str], tuple[VerdictKind, str]] = collections.OrderedDict()
        self._golds: collections.OrderedDict[str, Node | str] = collections.OrderedDict()
        self._pending: dict[tuple[str, str], _Pending] = {}
        self._kinds: collections.Counter[str] = collections.Counter()
        self._stages: collections.Counter[str] = collections.Counter()
        self._rules: collections.Counter[str] = collections.Counter()
        self._num_misjudged = 0
        self._lock = threading.Lock()
        self._layers: tuple[Layer, ...] = ()
        self._pool = Pool(self._pool_settings())
        self._reward_pool = Pool(self._pool_settings(reward=self._users_reward)) if self._users_reward else None

    @classmethod
    def for_training(cls, config: Config) -> Self:
        return cls(config.verifiers, config.reward, seed=config.run.seed)

    @classmethod
    def for_evaluation(cls, config: Config) -> Self:
        """Judges by the evaluation's rules; its reward is the outcome."""
        rules = config.evaluation
        return cls(config.verifiers, RewardConfig(extract=rules.extract, grader=rules.grader), seed=config.run.seed)

    def start(self) -> None:
        """Bring up the workers. Raises UserError when a required layer is absent or the environment cannot hold a sandbox."""
        try:
            errnos = self._pool.start()
            if self._reward_pool is not None:
                self._reward_pool.start()
            self._layers = tuple(Layer(name, errno == 0, _reason(errno)) for name, errno in zip(LAYERS, errnos, strict=True))
            self._refuse_or_report()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all processes of this verifier."""
        self._pool.close()
        if self._reward_pool is not None:
            self._reward_pool.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def verify_many(self, cases: Sequence[Unverified]) -> list[Verdict]:
        """One verdict a case, in the same order; blocks until all are there. Raises SandboxError when no worker can be had any more."""
        begun = [self._begin(case) for case in cases]
        judged = [self._finish(case, answer, step) for case, (answer, step) in zip(cases, begun, strict=True)]
        verdicts = self._rewarded(cases, judged)
        with self._lock:
            self._kinds.update(verdict.kind for verdict in verdicts)
            self._stages.update(verdict.stage for verdict in verdicts)
        return verdicts

    def check_gold(self, gold: str) -> str | None:
        """Why `gold` cannot be a gold answer, in one sentence; None when it can."""
        node = self._gold(gold)
        return node if isinstance(node, str) else None

    def layers(self) -> tuple[Layer, ...]:
        """The workers' lock, layer by layer, as the first worker reported it."""
        return self._layers

    def stats(self) -> Stats:
        counts = self._pool.counts
        with self._lock:
            return Stats(
                kinds=dict(self._kinds),
                stages=dict(self._stages),
                rules=dict(self._rules),
                kills=dict(counts.losses),
                cache_hits=self._stages["cache"],
                workers=len(self._pool.pids),
                waiting=self._pool.num_waiting,
                forks=counts.forks,
                ready_seconds=counts.ready_seconds,
                zygotes=counts.zygotes,
                retried=counts.retried,
                misjudged=self._num_misjudged,
            )

    @property
    def worker_pids(self) -> tuple[int, ...]:
        return self._pool.pids

    # One completion.

    def _begin(self, case: Unverified) -> tuple[str | None, "_Judgement | _Pending"]:
        """The extracted answer, and its judgement or the comparison that is under way."""
        started = time.perf_counter()
        answer = extract(case.text, self._config.extract)
        if answer is None:
            return None, self._note(VerdictKind.NO_ANSWER, "extract", started)
        key = (answer, case.gold)
        with self._lock:
            known = self._memo.get(key)
            if known is not None:
                self._memo.move_to_end(key)
                return answer, _Judgement(known[0], known[1], "cache", time.perf_counter() - started)
            pending = self._pending.get(key)
        if pending is not None:
            return answer, pending
        return answer, self._compare(key, started)

    def _compare(self, key: tuple[str, str], started: float) -> "_Judgement | _Pending":
        answer, gold = key
        gold_node = self._gold(gold)
        if isinstance(gold_node, str):
            return self._note(VerdictKind.SANDBOX, "gold", started)
        node = parse(answer)
        if node is None:
            return self._remember(key, VerdictKind.NO_ANSWER, "grammar", started)
        if self._config.literal and not literal_value(answer):
            return self._remember(key, VerdictKind.WRONG, "literal", started)
        decision = settle(node, gold_node, answer_text=answer, gold_text=gold)
        if decision is not None:
            return self._remember(key, VerdictKind(decision.kind), decision.stage, started)
        return self._ask_worker(key, Task(Question.DECIDE, encode(node), encode(gold_node)))

    def _ask_worker(self, key: tuple[str, str], task: Task) -> "_Pending":
        with self._lock:
            pending = self._pending.setdefault(key, _Pending(task, key))
        if pending.task is task:
            self._pool.submit([task])
        return pending

    def _finish(self, case: Unverified, answer: str | None, step: "_Judgement | _Pending") -> tuple[str | None, _Judgement]:
        if isinstance(step, _Judgement):
            return answer, step
        settled = step.task.settled.result()
        with self._lock:
            is_first = self._pending.pop(step.key, None) is not None
            if is_first:
                self._rules[settled.stage] += 1
                if not settled.kind.is_ours:
                    self._keep(step.key, settled.kind, settled.stage)
        return answer, _Judgement(settled.kind, settled.stage, "worker", settled.seconds)

    def _note(self, kind: VerdictKind, rule: str, started: float) -> _Judgement:
        with self._lock:
            self._rules[rule] += 1
        return _Judgement(kind, rule, "parent", time.perf_counter() - started)

    def _remember(self, key: tuple[str, str], kind: VerdictKind, rule: str, started: float) -> _Judgement:
        with self._lock:
            self._keep(key, kind, rule)
        return self._note(kind, rule, started)

    def _keep(self, key: tuple[str, str], kind: VerdictKind, rule: str) -> None:
        """Rules and grader are fixed for one verifier, so the key is the answer and its gold. Called under the lock."""
        self._memo[key] = (kind, rule)
        if len(self._memo) > _MAX_REMEMBERED:
            self._memo.popitem(last=False)

    def _gold(self, gold: str) -> Node | str:
        """The gold's tree, or the sentence that says why there is none."""
        with self._lock:
            known = self._golds.get(gold)
        if known is None:
            try:
                known = parse_gold(gold)
            except ValueError as cause:
                known = str(cause)
            with self._lock:
                self._golds[gold] = known
                if len(self._golds) > _MAX_GOLDS:
                    self._golds.popitem(last=False)
        return known

    # Rewards.

    def _rewarded(self, cases: Sequence[Unverified], judged: Sequence[tuple[str | None, _Judgement]]) -> list[Verdict]:
        if self._reward is not None:
            return [self._verdict(case, answer, judgement, self._reward(_graded(case, answer, judgement)) if not judgement.kind.is_ours else None)
                    for case, (answer, judgement) in zip(cases, judged, strict=True)]  # fmt: skip
        return self._rewarded_by_user(cases, judged)

    def _rewarded_by_user(self, cases: Sequence[Unverified], judged: Sequence[tuple[str | None, _Judgement]]) -> list[Verdict]:
        assert self._reward_pool is not None
        encode_graded = msgspec.msgpack.Encoder().encode
        tasks = [
            None if judgement.kind.is_ours else Task(Question.REWARD, encode_graded(_graded(case, answer, judgement)))
            for case, (answer, judgement) in zip(cases, judged, strict=True)
        ]
        self._reward_pool.submit([task for task in tasks if task is not None])
        verdicts = []
        for case, (answer, judgement), task in zip(cases, judged, tasks, strict=True):
            settled = None if task is None else task.settled.result()
            if settled is not None and settled.kind.is_ours:
                judgement = _Judgement(settled.kind, "reward", "worker", settled.seconds)
            verdicts.append(self._verdict(case, answer, judgement, None if settled is None else settled.value))
        return verdicts

    @staticmethod
    def _verdict(case: Unverified, answer: str | None, judgement: _Judgement, reward: float | None) -> Verdict:
        return Verdict(
            rollout_id=case.rollout_id,
            lease_id=case.lease_id,
            kind=judgement.kind,
            reward=reward,
            answer=answer,
            seconds=judgement.seconds,
            stage=judgement.stage,
        )

    # The sandbox.

    def _pool_settings(self, *, reward: str = "") -> CrewSettings:
        limits = Limits(memory_bytes=self._verifiers.memory_mib << 20, lifetime_cpu_s=_LIFETIME_CPU_S)
        return CrewSettings(
            setup=Setup(limits=limits, reward=reward),
            rules=rules_number("" if reward else RULES_VERSION),
            num_workers=self._verifiers.workers,
            cpu_budget_s=self._verifiers.cpu_budget_s,
            wall_s=self._verifiers.wall_s,
            draw_sentinels=tuple if reward else sentinels.draw,
            recheck=self._recheck,
        )

    def _refuse_or_report(self) -> None:
        absent = {layer.name: layer.reason for layer in self._layers if not layer.works}
        for name in _ESSENTIAL:
            if name in absent:
                raise SandboxError(f"the sandbox's layer {name} failed: {absent[name]}")
        for name in self._verifiers.require:
            if name in absent:
                raise UserError(f"verifiers.require names {name}, which this machine does not have ({absent[name]}): run elsewhere or leave it out")
        for name, reason in absent.items():
            logger.warning("the verifier's workers run without %s (%s); set verifiers.require to refuse that", name, reason)

    def _recheck(self, tasks: Sequence[Task]) -> None:
        """Forget what a broken worker judged, ask again, and count what comes out otherwise."""
        with self._lock:
            self._memo.clear()
        for task in tasks:
            fresh = Task(task.question, task.first, task.second)
            fresh.settled.add_done_callback(functools.partial(self._count_misjudged, task.settled.result().kind))
            self._pool.submit([fresh])

    def _count_misjudged(self, before: VerdictKind, future: "concurrent.futures.Future[Settled]") -> None:
        now = before if future.exception() else future.result().kind
        if now != before:
            with self._lock:
                self._num_misjudged += 1
            logger.error("a verdict %s of a broken worker is %s: it may have trained", before, now)


def _graded(case: Unverified, answer: str | None, judgement: _Judgement) -> rewards.Graded:
    return rewards.Graded(
        rollout_id=case.rollout_id,
        problem_id=case.problem_id,
        kind=judgement.kind,
        answer=answer,
        text=case.text,
        gold=case.gold,
        num_tokens=case.num_tokens,
        is_truncated=case.is_truncated,
    )


def _reason(errno: int) -> str:
    return os.strerror(errno) if errno else ""
