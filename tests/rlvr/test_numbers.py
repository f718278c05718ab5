"""The small rules of numbers: advantages, staleness, learning rate, pass@k, seeds."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.advantages import grpo
from rlvr.config import OptimizerConfig
from rlvr.learning_rate import learning_rate
from rlvr.passk import pass_at_k, wilson_interval
from rlvr.records import Version
from rlvr.seeds import derive_seed
from rlvr.staleness import oldest_allowed_step, staleness

settings.load_profile("ci")  # no deadlines, which a busy machine would miss, and the same examples each time

REWARDS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1.0, 0.1, -1.0, 0.3])), min_size=1, max_size=40)


def test_an_advantage_by_hand() -> None:
    assert grpo([1.0, 0.0, 0.0, 0.0], [7, 7, 7, 7], 1, 0.0).tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert grpo([1.0, 0.0], [0, 0], 0, 1.0).tolist() == pytest.approx([1 / 3, -1 / 3])


@given(REWARDS, st.sampled_from([0, 1]), st.sampled_from([0.0, 1e-6, 1.0]))
def test_advantages_are_those_of_a_slow_reference(rows: list[tuple[int, float]], ddof: int, eps: float) -> None:
    groups, rewards = zip(*rows, strict=True)
    found = grpo(rewards, groups, ddof, eps)
    for index, (group, reward) in enumerate(rows):
        fellows = [value for label, value in rows if label == group]
        if len(set(fellows)) == 1:
            assert found[index] == 0.0
        else:
            std = (statistics.stdev if ddof else statistics.pstdev)(fellows)
            assert found[index] == pytest.approx((reward - statistics.fmean(fellows)) / (std + eps), abs=1e-12)


@given(REWARDS, st.randoms())
def test_advantages_follow_their_rollouts_into_any_order_and_under_any_group_names(rows: list[tuple[int, float]], random: object) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    groups, rewards = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    np.testing.assert_allclose(grpo(rewards[order], groups[order] * 1000 - 7, 1, 1e-6), grpo(rewards, groups, 1, 1e-6)[order], atol=1e-12)


@given(st.floats(-1e6, 1e6), st.integers(1, 50))
def test_a_group_of_equal_rewards_teaches_nothing(reward: float, number: int) -> None:
    assert grpo([reward] * number, [0] * number, 1, 0.0).tolist() == [0.0] * number


def test_rewards_that_are_not_finite_or_do_not_pair_up_are_refused() -> None:
    assert grpo([], [], 1, 1e-6).size == 0
    for rewards, groups in (([math.nan], [0]), ([1.0], [0, 0]), ([[1.0]], [[0]])):
        with pytest.raises(ValueError, match=r"not finite|do not pair up"):
            grpo(rewards, groups, 1, 1e-6)


@pytest.mark.parametrize(
    ("p", "informative", "mass_8", "mass_1024"), [(0.5, 0.992, 0.434, 0.5), (0.95, 0.337, 0.110, 0.217), (0.999, 0.008, 0.0025, 0.0246)]
)
def test_group_sizes_weigh_the_policy_term_as_tabulated_for_the_recipe(p: float, informative: float, mass_8: float, mass_1024: float) -> None:
    def mass(size: int) -> float:
        total = 0.0
        for right in range(size + 1):
            log_chance = math.lgamma(size + 1) - math.lgamma(right + 1) - math.lgamma(size - right + 1) + right * math.log(p)
            log_chance += (size - right) * math.log1p(-p)
            advantages = grpo([1.0] * right + [0.0] * (size - right), [0] * size, 1, 1e-6)
            total += math.exp(log_chance) * float(np.maximum(advantages, 0).sum()) / size
        return total

    assert 1 - p**8 - (1 - p) ** 8 == pytest.approx(informative, abs=6e-4)
    assert mass(8) == pytest.approx(mass_8, abs=6e-4)
    assert mass(1024) == pytest.approx(mass_1024, abs=6e-4)


def test_staleness_counts_versions_between_the_oldest_token_and_the_steps_start() -> None:
    assert staleness(1, Version(step=0)) == 0
    assert staleness(5, Version(lineage=3, step=2)) == 2
    with pytest.raises(ValueError, match=r"step 2 cannot train a token of version 0.2"):
        staleness(2, Version(step=2))


@given(st.integers(1, 1000), st.integers(0, 9))
def test_what_starts_from_the_oldest_allowed_version_is_within_the_bound(step: int, bound: int) -> None:
    oldest = oldest_allowed_step(step, bound)
    assert 0 <= staleness(step, Version(step=oldest)) <= bound
    assert oldest == 0 or staleness(step, Version(step=oldest - 1)) > bound


@given(st.integers(1, 500), st.data())
def test_the_linear_schedule_is_the_recipes_formula(num_steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, num_steps))
    optimizer = OptimizerConfig(learning_rate=3e-5, schedule="linear")
    assert learning_rate(optimizer, step, num_steps) == pytest.approx(3e-5 * (1 - (step - 1) / num_steps))


def test_schedules_start_at_the_peak_and_never_rise() -> None:
    for schedule in ("constant", "linear", "cosine"):
        rates = [learning_rate(OptimizerConfig(learning_rate=1.0, schedule=schedule), step, 60) for step in range(1, 61)]
        assert rates[0] == 1.0
        assert all(0.0 < later <= earlier for earlier, later in itertools.pairwise(rates))


def test_warm_up_is_a_ramp_that_ends_at_the_schedule() -> None:
    warm = OptimizerConfig(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(warm, step, 10) for step in range(1, 7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    linear = OptimizerConfig(learning_rate=1.0, warmup_steps=4, schedule="linear")
    assert learning_rate(linear, 6, 10) == pytest.approx(0.5)


@pytest.mark.parametrize("step", [0, 61])
def test_a_step_outside_the_run_has_no_learning_rate(step: int) -> None:
    with pytest.raises(ValueError, match=r"step must be in 1..60"):
        learning_rate(OptimizerConfig(), step, 60)


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_draws_that_hold_a_correct_sample(samples: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    draws = list(itertools.combinations([True] * correct + [False] * (samples - correct), k))
    assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    assert pass_at_k(100_000, 10, 1000) == pytest.approx(1 - 0.99**10, abs=1e-3)


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_impossible_counts_are_refused(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(samples, correct, k)


def test_the_wilson_interval_by_hand() -> None:
    low, high = wilson_interval(75, 200)
    assert (low, high) == (pytest.approx(0.3108, abs=1e-4), pytest.approx(0.4439, abs=1e-4))
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"successes must be in 0..3"):
        wilson_interval(4, 3)


@given(st.integers(1, 2000), st.data())
def test_the_wilson_interval_lies_in_the_unit_and_around_the_share(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials) | st.floats(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    assert low < high


def test_seeds_depend_on_every_name_and_on_nothing_else() -> None:
    assert derive_seed(1, "engine", "g0", 0) == 8760687270989619902
    names: list[tuple[str | int, ...]] = [("g0", 0), ("g0", 1), ("g1", 0), ("g0",), ("g", "00"), ("g0", "0")]
    assert len({derive_seed(run, *name) for run in range(3) for name in names}) == 18


@given(st.integers(0, 2**70), st.text(), st.integers(1, 64))
def test_a_seed_fits_its_bits(run_seed: int, name: str, bits: int) -> None:
    assert 0 <= derive_seed(run_seed, name, bits=bits) < 2**bits
