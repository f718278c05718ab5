"""The verifier as its callers see it: verdicts in order, once each, whatever happens to its workers."""

import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import children_of, holds_within, is_alive

from rlvr.config import Config, EvaluationConfig, RewardConfig, VerifiersConfig
from rlvr.errors import SandboxError, UserError
from rlvr.records import Unverified, Verdict, VerdictKind
from verifier.answers import parse
from verifier.nodes import encode
from verifier.sandbox import crew, sentinels
from verifier.sandbox.protocol import Outcome, Question
from verifier.sandbox.tasks import Settled, Task
from verifier.verify import Verifier

pytestmark = pytest.mark.processes

ALGEBRA = [
    (r"\frac{\sqrt{%d}}{%d}", r"\frac{1}{\sqrt{%d}}", VerdictKind.CORRECT),
    (r"\sqrt{%d}", r"\sqrt{%d}+10^{-30}", VerdictKind.WRONG),
]


def case(answer: str, gold: str, name: str = "r") -> Unverified:
    return Unverified(rollout_id=name, lease_id=f"lease of {name}", problem_id="p", text=rf"so \boxed{{{answer}}}", gold=gold)


def hard_cases(numbers: Sequence[int]) -> tuple[list[Unverified], list[VerdictKind]]:
    """Comparisons that the parent cannot settle, and what they are."""
    cases, kinds = [], []
    for number in numbers:
        answer, gold, kind = ALGEBRA[number % 2]
        constant = 2 * number + 1001
        cases.append(case(answer.replace("%d", str(constant)), gold.replace("%d", str(constant)), f"r{number}"))
        kinds.append(kind)
    return cases, kinds


def kinds_of(verdicts: Sequence[Verdict]) -> list[VerdictKind]:
    return [verdict.kind for verdict in verdicts]


def test_each_case_gets_one_verdict_in_order_with_its_own_ids(verifier: Verifier) -> None:
    answers = ["5", "6", "", "0.5", r"\frac12", "x+1", r"\text{no}", "5"]
    verdicts = verifier.verify_many([case(answer, "5", f"r{number}") for number, answer in enumerate(answers)])
    assert [verdict.rollout_id for verdict in verdicts] == [f"r{number}" for number in range(len(answers))]
    assert [verdict.lease_id for verdict in verdicts] == [f"lease of r{number}" for number in range(len(answers))]
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert verdicts[2].kind is VerdictKind.NO_ANSWER
    assert verifier.verify_many([]) == []


def test_what_was_judged_once_comes_from_the_cache(verifier: Verifier) -> None:
    cases, kinds = hard_cases([9_000, 9_001])
    first, second = verifier.verify_many(cases), verifier.verify_many(cases)
    assert kinds_of(first) == kinds_of(second) == kinds
    assert {verdict.stage for verdict in first} == {"worker"}
    assert {verdict.stage for verdict in second} == {"cache"}


def test_long_answers_are_judged_and_not_remembered(verifier: Verifier) -> None:
    long = case("1" * 600, "5")
    assert [verifier.verify_many([long])[0].stage for _ in range(2)] == ["parent", "parent"]


def test_equal_answers_of_one_batch_ask_a_worker_once(verifier: Verifier) -> None:
    before = verifier.stats().rules.copy()
    (hard,), kinds = hard_cases([9_102])
    verdicts = verifier.verify_many([hard] * 64)
    assert kinds_of(verdicts) == kinds * 64
    after = verifier.stats().rules
    assert sum(after.values()) - sum(before.values()) == 1


def test_many_threads_share_one_verifier(verifier: Verifier) -> None:
    found: dict[int, tuple[list[VerdictKind], list[VerdictKind]]] = {}

    def judge(thread: int) -> None:
        cases, kinds = hard_cases(range(100 * thread, 100 * thread + 40))
        found[thread] = kinds_of(verifier.verify_many(cases)), kinds

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(said == true for said, true in found.values())


def test_workers_killed_at_random_change_no_verdict(verifier: Verifier) -> None:
    cases, kinds = hard_cases(range(20_000, 20_300))
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.05):
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(verifier.worker_pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    verdicts = verifier.verify_many(cases)
    stop.set()
    killer.join()
    assert verifier.stats().kills["killed"] > 0
    assert kinds_of(verdicts) == kinds


def test_ten_thousand_verdicts_survive_workers_killed_all_the_time(verifier: Verifier) -> None:
    cases, kinds = hard_cases(range(50_000, 60_000))
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.1):
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(random.choice(verifier.worker_pids), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    verdicts = verifier.verify_many(cases)
    stop.set()
    killer.join()
    assert [verdict.rollout_id for verdict in verdicts] == [each.rollout_id for each in cases]
    assert kinds_of(verdicts) == kinds


def test_a_loaded_machine_gives_the_same_verdicts(shared: Path) -> None:
    rows = [json.loads(line) for line in (shared / "verifier_cases.jsonl").read_text().splitlines()]
    cases = [Unverified(rollout_id=row["id"], lease_id="l", problem_id="p", text=row["response"], gold=row["gold"]) for row in rows]
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * (os.cpu_count() or 1))]
    try:
        with Verifier(VerifiersConfig(workers=2), RewardConfig(extract="all")) as loaded:
            under_load = loaded.verify_many(cases)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    with Verifier(VerifiersConfig(workers=1), RewardConfig(extract="all")) as idle:
        assert kinds_of(under_load) == kinds_of(idle.verify_many(cases))


def test_a_gold_that_does_not_parse_is_our_fault_and_says_why(verifier: Verifier) -> None:
    (verdict,) = verifier.verify_many([case("5", r"\notacommand{{")])
    assert (verdict.kind, verdict.reward) == (VerdictKind.SANDBOX, None)
    assert verifier.check_gold(r"\notacommand{{")
    assert verifier.check_gold("5") is None


@pytest.mark.parametrize(
    "text", ["", "\0", "\ud800", r"\boxed{" * 5_000, r"\boxed{\ud800}" + "\udfff", "a" * 3_000_000, "\\boxed{\u202e5\u202c6}", "{" * 100_000]
)
def test_no_text_raises(verifier: Verifier, text: str) -> None:
    (verdict,) = verifier.verify_many([Unverified(rollout_id="r", lease_id="l", problem_id="p", text=text, gold="5")])
    assert verdict.kind is not VerdictKind.CORRECT
    assert verdict.reward == 0.0


def test_a_literal_reward_takes_one_number_or_fraction_alone() -> None:
    verifier = Verifier(VerifiersConfig(), RewardConfig(literal=True))
    verdicts = verifier.verify_many([case(answer, "12.8") for answer in ["12.8", "64/5", r"\frac{64}{5}", "10+2.8", "128/10", "6.4*2"]])
    assert [verdict.reward for verdict in verdicts] == [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]


def test_an_evaluation_judges_by_its_own_rules_beside_the_training_and_pays_the_outcome() -> None:
    config = Config(reward=RewardConfig(kind="none"), evaluation=EvaluationConfig(extract="all"))
    unboxed = Unverified(rollout_id="r", lease_id="l", problem_id="p", text="The answer is 5.", gold="5")
    (hard,), kinds = hard_cases([40_000])
    with Verifier.for_training(config) as training, Verifier.for_evaluation(config, beside=training) as evaluation:
        assert evaluation.verify_many([unboxed])[0].reward == 1.0
        assert training.verify_many([unboxed])[0].kind is VerdictKind.NO_ANSWER
        assert kinds_of(evaluation.verify_many([hard])) == kinds_of(training.verify_many([hard])) == kinds
        evaluation.close()
        assert training.worker_pids


def test_an_evaluation_may_use_another_grader() -> None:
    roughly = case("25001", "25000")
    assert Verifier().verify_many([roughly])[0].kind is VerdictKind.WRONG
    assert Verifier(reward=RewardConfig(grader="qwen25_math")).verify_many([roughly])[0].kind is VerdictKind.CORRECT


def test_a_verifier_holds_no_descriptor_before_its_start_nor_after_its_end() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    verifier = Verifier()
    assert descriptors() == before
    with verifier:
        assert descriptors() > before
    assert descriptors() == before
    Verifier().close()
    assert descriptors() == before


def test_a_verifier_that_was_not_started_says_so_where_it_needs_a_worker() -> None:
    with pytest.raises(SandboxError, match="not started"):
        Verifier().verify_many(hard_cases([0])[0])


def test_the_parent_never_imports_sympy_torch_ray_or_vllm() -> None:
    code = (
        "import sys\nfrom verifier.verify import Verifier\nfrom verifier.cases import verify_file\nfrom rlvr.records import Unverified\n"
        "with Verifier() as v:\n"
        "    v.verify_many([Unverified(rollout_id='r', lease_id='l', problem_id='p', text=r'\\boxed{\\sqrt{8}}', gold=r'2\\sqrt{2}')])\n"
        "print([name for name in ('sympy', 'mpmath', 'torch', 'ray', 'vllm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_layer_of_the_lock_is_reported_by_name(verifier: Verifier) -> None:
    names = [layer.name for layer in verifier.layers()]
    assert names == ["rlimits", "parent_death", "oom_score", "no_new_privs", "landlock", "landlock_tcp", "landlock_signals", "seccomp"]
    assert all(layer.works or layer.reason for layer in verifier.layers())


WITHOUT_LANDLOCK = """
import ctypes, logging, platform, struct, sys
from verifier.sandbox import landlock, seccomp
from rlvr.config import VerifiersConfig
from rlvr.errors import UserError
from verifier.verify import Verifier
logging.basicConfig(format="%(message)s")
filter = b"".join([
    seccomp.instruction(0x20, 0),
    seccomp.instruction(0x15, 444, if_false=1),
    seccomp.instruction(0x06, 0x00050000 | 38),
    seccomp.instruction(0x06, seccomp.ALLOW),
])
zero = ctypes.c_ulong(0)
assert ctypes.CDLL(None).prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0
seccomp.install(filter)
with Verifier() as verifier:
    print([layer.name for layer in verifier.layers() if not layer.works])
try:
    Verifier(VerifiersConfig(require=("landlock",))).start()
except UserError as refusal:
    print(refusal)
"""


def test_a_kernel_without_landlock_is_said_once_and_refused_where_it_is_required() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_LANDLOCK], capture_output=True, text=True, check=True)
    absent, refusal = done.stdout.splitlines()
    assert absent == "['landlock', 'landlock_tcp', 'landlock_signals']"
    assert refusal.startswith("verifiers.require names landlock, which this machine does not have")
    assert [line.split(" (")[0] for line in done.stderr.splitlines()] == [
        f"the verifier's workers run without {layer}" for layer in ("landlock", "landlock_tcp", "landlock_signals")
    ]


def test_a_bignum_library_that_cannot_be_interrupted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gmpy2.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="gmpy2"):
        Verifier().start()


def test_a_closed_verifier_leaves_no_process_and_says_that_it_is_closed() -> None:
    before = children_of(os.getpid())
    verifier = Verifier()
    verifier.start()
    family = children_of(os.getpid()) - before
    assert family
    verifier.close()
    assert not any(is_alive(pid) for pid in family)
    with pytest.raises(SandboxError, match="closed"):
        verifier.verify_many(hard_cases([0])[0])


def test_a_worker_that_misjudges_a_known_pair_is_killed_and_its_verdicts_are_judged_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, num_draws = sentinels.draw, 0

    def draw() -> tuple[sentinels.Sentinel, ...]:
        nonlocal num_draws
        num_draws += 1
        pairs = sound()
        return tuple(sentinels.Sentinel(pair.answer, pair.gold, Outcome.NO_ANSWER) for pair in pairs) if num_draws == 4 else pairs

    monkeypatch.setattr(sentinels, "draw", draw)
    monkeypatch.setattr(crew, "_CHECK_EVERY", 100)
    with Verifier(VerifiersConfig(workers=2)) as verifier, caplog.at_level(logging.ERROR):
        cases, kinds = hard_cases(range(30_000, 30_300))
        assert kinds_of(verifier.verify_many(cases)) == kinds
        assert verifier.stats().kills.get("sentinel") == 1
        assert verifier.stats().misjudged == 0
    assert "misjudged a known pair" in caplog.text


def test_a_verdict_of_a_broken_worker_that_comes_out_otherwise_is_counted_and_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    trees = [encode(node) for node in (parse(r"\sqrt{2}"), parse(r"\sqrt{3}")) if node is not None]
    poisoned = Task(Question.DECIDE, *trees)
    poisoned.settled.set_result(Settled(VerdictKind.CORRECT, "worker", 0.0))
    with Verifier() as verifier, caplog.at_level(logging.ERROR):
        verifier._judging.judge_again([poisoned], verifier._pool)
        assert holds_within(30.0, lambda: verifier.stats().misjudged == 1)


def test_the_cache_forgets_no_fault_of_ours_into_a_verdict(verifier: Verifier) -> None:
    bad = case("5", r"\notacommand{{")
    assert [verifier.verify_many([bad])[0].stage for _ in range(2)] == ["parent", "parent"]
