"""The verifier: completions and gold answers in, verdicts out, in order, from any thread, whatever the text.

Owns the workers' life, the rewards and the counts; `judging` owns the way of one completion. Called by the verifier actors, the evaluation and
`firesteel verify`. Never imports sympy; a hang, a crash or a lie behind it is a verdict kind, never an exception.
"""

import collections
import logging
import os
import threading
from collections.abc import Sequence
from typing import Self

import msgspec

from rlvr.config import Config, RewardConfig, VerifiersConfig
from rlvr.errors import SandboxError, UserError
from rlvr.records import Unverified, Verdict
from verifier import rewards
from verifier.compare import RULES_VERSION
from verifier.judging import Judgement, Judging
from verifier.sandbox import sentinels
from verifier.sandbox.crew import CrewSettings
from verifier.sandbox.lock import LAYERS, Limits
from verifier.sandbox.pool import Pool
from verifier.sandbox.protocol import Question, rules_number
from verifier.sandbox.tasks import Task
from verifier.sandbox.zygote import Setup

logger = logging.getLogger(__name__)

_LIFETIME_CPU_S = 600
_ESSENTIAL = ("rlimits", "parent_death", "no_new_privs")
_MAX_REWARD_TEXT = 1 << 18


class Layer(msgspec.Struct, frozen=True):
    """One layer of the workers' lock: whether it took effect, and the kernel's reason where it did not."""

    name: str
    works: bool
    reason: str = ""


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start."""

    kinds: dict[str, int]
    stages: dict[str, int]
    """Verdicts by cache, parent and worker."""
    rules: dict[str, int]
    """Verdicts by the rule that decided, those from the cache left out."""
    kills: dict[str, int]
    """Workers given up, by reason; `recycled` is no fault."""
    workers: int
    waiting: int
    """Comparisons that no worker has yet."""
    forks: int
    ready_seconds: float
    """Sum over all forks of the seconds until the worker was ready."""
    zygotes: int
    retried: int
    misjudged: int
    """Verdicts that came out otherwise when the worker that gave them was found broken."""


class Verifier:
    """Judges completions with `verifiers.workers` sandboxed children; a context manager, or `start` and `close`."""

    def __init__(
        self, verifiers: VerifiersConfig | None = None, reward: RewardConfig | None = None, *, seed: int = 0, beside: "Verifier | None" = None
    ) -> None:
        """beside: a verifier whose workers this one asks; they start and end with that one."""
        self._verifiers = verifiers or VerifiersConfig()
        config = reward or RewardConfig()
        self._judging = Judging(config)
        self._host = beside
        self._pool: Pool = Pool(self._crew(Setup(limits=self._limits(), reward=""))) if beside is None else beside._pool
        self._reward = rewards.built_in(config, seed=seed)
        self._reward_pool = None if self._reward else Pool(self._crew(Setup(limits=self._limits(), reward=rewards.users_reward(config.kind))))
        self._layers: tuple[Layer, ...] = ()
        self._kinds: collections.Counter[str] = collections.Counter()
        self._stages: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    @classmethod
    def for_training(cls, config: Config) -> Self:
        return cls(config.verifiers, config.reward, seed=config.run.seed)

    @classmethod
    def for_evaluation(cls, config: Config, *, beside: "Verifier | None" = None) -> Self:
        """Judges by the evaluation's rules; its reward is the outcome. beside: as for the constructor."""
        rules = config.evaluation
        return cls(config.verifiers, RewardConfig(extract=rules.extract, grader=rules.grader), seed=config.run.seed, beside=beside)

    def start(self) -> None:
        """Bring up the workers. Raises UserError when a required layer is absent or the environment cannot hold a sandbox."""
        try:
            if self._host is None:
                self._layers = _layers(self._pool.start())
                self._refuse_or_report()
            else:
                self._layers = self._host.layers()
            if self._reward_pool is not None:
                self._reward_pool.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all processes of this verifier, those that work for another one left alone."""
        if self._host is None:
            self._pool.close()
        if self._reward_pool is not None:
            self._reward_pool.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def verify_many(self, cases: Sequence[Unverified]) -> list[Verdict]:
        """One verdict a case, in the same order; blocks until all are there.

        Raises SandboxError when no worker can be had any more. Before `start`, and after `close`, what the parent can settle is still settled.
        """
        begun = [self._judging.begin(case.text, case.gold, self._pool) for case in cases]
        judged = [self._judging.end(each) for each in begun]
        verdicts = self._rewarded(cases, judged) if self._reward_pool is None else self._rewarded_by_user(cases, judged, self._reward_pool)
        with self._lock:
            self._kinds.update(verdict.kind.value for verdict in verdicts)
            self._stages.update(verdict.stage for verdict in verdicts)
        return verdicts

    def check_gold(self, gold: str) -> str | None:
        """Why `gold` cannot be a gold answer, in one sentence; None when it can."""
        node = self._judging.gold(gold)
        return node if isinstance(node, str) else None

    def layers(self) -> tuple[Layer, ...]:
        """The workers' lock, layer by layer, as the first worker reported it."""
        return self._layers

    def stats(self) -> Stats:
        """Of this verifier's verdicts, and of all workers that it asks."""
        pools = [pool for pool in (self._pool, self._reward_pool) if pool is not None]
        counts = [pool.counts for pool in pools]
        kills: collections.Counter[str] = collections.Counter()
        for each in counts:
            kills.update(dict(each.losses))  # a copy: the pool's thread writes
        with self._lock:
            return Stats(
                kinds=dict(self._kinds),
                stages=dict(self._stages),
                rules=dict(self._judging.rules),
                kills=dict(kills),
                workers=sum(len(pool.pids) for pool in pools),
                waiting=sum(pool.num_waiting for pool in pools),
                forks=sum(each.forks for each in counts),
                ready_seconds=sum(each.ready_seconds for each in counts),
                zygotes=sum(each.zygotes for each in counts),
                retried=sum(each.retried for each in counts),
                misjudged=self._judging.num_misjudged,
            )

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """The workers that live now, the spare one included."""
        return self._pool.pids

    def _rewarded(self, cases: Sequence[Unverified], judged: Sequence[Judgement]) -> list[Verdict]:
        assert self._reward is not None
        return [
            _verdict(case, judgement, None if judgement.kind.is_ours else self._reward(_graded(case, judgement)))
            for case, judgement in zip(cases, judged, strict=True)
        ]

    def _rewarded_by_user(self, cases: Sequence[Unverified], judged: Sequence[Judgement], pool: Pool) -> list[Verdict]:
        """A reward that fails or hangs is a fault of ours, whatever the outcome was."""
        tasks = [
            None if judgement.kind.is_ours else Task(Question.REWARD, msgspec.msgpack.encode(_printable(_graded(case, judgement))))
            for case, judgement in zip(cases, judged, strict=True)
        ]
        pool.submit([task for task in tasks if task is not None])
        verdicts = []
        for case, judgement, task in zip(cases, judged, tasks, strict=True):
            settled = None if task is None else task.settled.result()
            if settled is not None and settled.kind.is_ours:
                judgement = Judgement(settled.kind, judgement.answer, "reward", "worker", settled.seconds)
            verdicts.append(_verdict(case, judgement, None if settled is None else settled.value))
        return verdicts

    def _limits(self) -> Limits:
        return Limits(memory_bytes=self._verifiers.memory_mib << 20, lifetime_cpu_s=_LIFETIME_CPU_S)

    def _crew(self, setup: Setup) -> CrewSettings:
        return CrewSettings(
            setup=setup,
            rules=rules_number("" if setup.reward else RULES_VERSION),
            num_workers=self._verifiers.workers,
            cpu_budget_s=self._verifiers.cpu_budget_s,
            wall_s=self._verifiers.wall_s,
            draw_sentinels=tuple if setup.reward else sentinels.draw,
            recheck=lambda tasks: self._judging.judge_again(tasks, self._pool),
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
            logger.warning("the verifier's workers run without %s (%s); verifiers.require would refuse that", name, reason)


def _layers(errnos: Sequence[int]) -> tuple[Layer, ...]:
    return tuple(Layer(name, errno == 0, os.strerror(errno) if errno else "") for name, errno in zip(LAYERS, errnos, strict=True))


def _verdict(case: Unverified, judgement: Judgement, reward: float | None) -> Verdict:
    return Verdict(
        rollout_id=case.rollout_id,
        lease_id=case.lease_id,
        kind=judgement.kind,
        reward=reward,
        answer=judgement.answer,
        seconds=judgement.seconds,
        stage=judgement.stage,
    )


def _graded(case: Unverified, judgement: Judgement) -> rewards.Graded:
    return rewards.Graded(
        rollout_id=case.rollout_id,
        problem_id=case.problem_id,
        kind=judgement.kind,
        answer=judgement.answer,
        text=case.text,
        gold=case.gold,
        num_tokens=case.num_tokens,
        is_truncated=case.is_truncated,
    )


def _printable(graded: rewards.Graded) -> rewards.Graded:
    """What can be written as UTF-8: lone surrogates become question marks, and of a very long text the end is kept."""

    def clean(text: str) -> str:
        return text[-_MAX_REWARD_TEXT:].encode("utf-8", "replace").decode()

    return rewards.Graded(
        rollout_id=clean(graded.rollout_id),
        problem_id=clean(graded.problem_id),
        kind=graded.kind,
        answer=None if graded.answer is None else clean(graded.answer),
        text=clean(graded.text),
        gold=clean(graded.gold),
        num_tokens=graded.num_tokens,
        is_truncated=graded.is_truncated,
    )
