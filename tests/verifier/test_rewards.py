"""From verdicts to rewards, built-in and brought along."""

from pathlib import Path

import pytest

from rlvr.config import RewardConfig, VerifiersConfig
from rlvr.errors import UserError
from rlvr.records import Unverified, VerdictKind
from verifier.rewards import Graded, Reward, built_in, users_reward
from verifier.verify import Verifier

TRAINING_KINDS = [kind for kind in VerdictKind if not kind.is_ours]


def made(kind: str, *, seed: int = 0, **settings: object) -> Reward:
    reward = built_in(RewardConfig(kind=kind, **settings), seed=seed)  # type: ignore[arg-type]
    assert reward is not None
    return reward


def graded(kind: VerdictKind = VerdictKind.CORRECT, *, text: str = "", rollout_id: str = "r", num_tokens: int = 0) -> Graded:
    return Graded(rollout_id=rollout_id, problem_id="p", kind=kind, answer=None, text=text, gold="5", num_tokens=num_tokens)


def test_the_outcome_pays_each_kind_as_configured() -> None:
    reward = made("outcome", correct=2.0, wrong=-1.0, no_answer=-0.5)
    assert [reward(graded(kind)) for kind in TRAINING_KINDS] == [2.0, -1.0, -0.5, -1.0]


@pytest.mark.parametrize("kind", TRAINING_KINDS)
@pytest.mark.parametrize("text, earned", [(r"\boxed{7}", 1.0), (r"\boxed{128/8}", 1.0), (r"\boxed{}", 0.0), ("7", 0.0), (r"\boxed{7", 0.0)])
def test_the_format_pays_a_boxed_answer_right_or_wrong(kind: VerdictKind, text: str, earned: float) -> None:
    assert made("format")(graded(kind, text=text)) == earned


@pytest.mark.parametrize(
    "text, earned", [(r"\boxed{7}", 1.0), (r"\boxed{-12.8}", 1.0), (r"\boxed{64/5}", 1.0), (r"\boxed{6+1}", 0.0), (r"\boxed{x}", 0.0)]
)
def test_a_literal_format_pays_one_number_or_fraction_alone(text: str, earned: float) -> None:
    assert made("format", literal=True)(graded(text=text)) == earned


def test_the_format_bonus_comes_on_top_of_the_outcome() -> None:
    reward = made("outcome_and_format", format_bonus=0.25)
    assert reward(graded(VerdictKind.CORRECT, text=r"\boxed{5}")) == 1.25
    assert reward(graded(VerdictKind.WRONG, text=r"\boxed{7}")) == 0.25
    assert reward(graded(VerdictKind.NO_ANSWER, text="")) == 0.0


def test_the_random_reward_is_fixed_by_rollout_and_seed_and_blind_to_the_verdict() -> None:
    toss, other_seed = made("random", seed=1), made("random", seed=2)
    ids = [f"rollout-{number}" for number in range(4_000)]
    tossed = [toss(graded(VerdictKind.CORRECT, rollout_id=each)) for each in ids]
    assert tossed == [toss(graded(VerdictKind.WRONG, rollout_id=each)) for each in ids]
    assert tossed != [other_seed(graded(rollout_id=each)) for each in ids]
    assert abs(sum(tossed) / len(ids) - 0.5) < 0.04


def test_the_length_reward_falls_with_length_and_pays_no_short_wrong_answer() -> None:
    reward = made("length", length_target_tokens=100, length_weight=0.5)
    right = [reward(graded(VerdictKind.CORRECT, num_tokens=tokens)) for tokens in (0, 50, 100, 150, 200, 1000)]
    assert right == sorted(right, reverse=True)
    assert right[0] == pytest.approx(1.5)
    assert right[2] == pytest.approx(1.0)
    assert right[-1] == pytest.approx(0.5)
    wrong = [reward(graded(VerdictKind.WRONG, num_tokens=tokens)) for tokens in (0, 50, 100, 1000)]
    assert wrong[:2] == [0.0, 0.0]
    assert wrong[-1] == pytest.approx(-0.5)


def test_a_reward_of_nothing_pays_nothing() -> None:
    assert {made("none")(graded(kind)) for kind in TRAINING_KINDS} == {0.0}


def test_an_unknown_reward_is_refused_with_the_names_of_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"reward.kind 'outcom' is unknown: there are outcome, format,.*firesteel\.rewards"):
        users_reward("outcom")


USERS_CODE = """
def vowels(graded):
    if "raise" in graded.text:
        raise ValueError("no")
    if "open" in graded.text:
        open("/etc/hostname")
    if "nan" in graded.text:
        return float("nan")
    return sum(letter in "aeiou" for letter in graded.text) + (10.0 if graded.kind == "correct" else 0.0)
"""


def case(text: str, number: int = 0) -> Unverified:
    return Unverified(rollout_id=f"r{number}", lease_id="l", problem_id="p", text=text, gold="5")


def test_a_reward_of_the_user_sees_text_inside_a_sandbox_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_rewards.py").write_text(USERS_CODE)
    info = tmp_path / "users_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: users-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[firesteel.rewards]\nvowels = users_rewards:vowels\n")
    monkeypatch.syspath_prepend(tmp_path)
    texts = ["iou", r"iou \boxed{5}", "\ud800 a", "raise", "open", "nan"]
    with Verifier(VerifiersConfig(workers=1), RewardConfig(kind="vowels")) as verifier:
        verdicts = verifier.verify_many([case(text, number) for number, text in enumerate(texts)])
    assert [verdict.reward for verdict in verdicts] == [3.0, 15.0, 1.0, None, None, None]
    assert [verdict.kind for verdict in verdicts[:3]] == [VerdictKind.NO_ANSWER, VerdictKind.CORRECT, VerdictKind.NO_ANSWER]
    assert {verdict.kind for verdict in verdicts[3:]} == {VerdictKind.SANDBOX}
