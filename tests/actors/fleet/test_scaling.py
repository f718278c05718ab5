"""How many generators there should be: by nodes, by metrics, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.fleet.scaling import WINDOW_S, Look, check_asked, follow_nodes, next_count, seats_by_replica
from actors.nodes import Node
from rlvr.config import GeneratorsConfig, VerifiersConfig
from rlvr.errors import UserError

ROLE = {"rlvr.io/role": "generator"}


def node(name: str, *, gpus: int = 0, role: str = "generator", draining: bool = False) -> Node:
    return Node(id=name, labels={"rlvr.io/role": role}, num_gpus=gpus, is_draining=draining)


def followed(nodes: list[Node], seats: dict[tuple[str, int], str] | None = None, *, device: str = "cpu", parallel: int = 1, most: int = 99):  # type: ignore[no-untyped-def]
    return follow_nodes(nodes, seats or {}, labels=ROLE, device=device, tensor_parallel=parallel, most=most)


def test_each_labelled_cpu_node_has_one_engine_and_other_nodes_none() -> None:
    assert followed([node("a"), node("b", role="learner"), node("c")]) == {("a", 0): "generator-0", ("c", 0): "generator-1"}


def test_a_gpu_node_has_its_gpus_over_those_of_an_engine() -> None:
    assert len(followed([node("a", gpus=8)], device="cuda", parallel=2)) == 4
    assert len(followed([node("a", gpus=3)], device="cuda", parallel=2)) == 1
    assert followed([node("a")], device="cuda") == {}


def test_a_draining_node_holds_no_engine() -> None:
    assert followed([node("a", draining=True), node("b")]) == {("b", 0): "generator-0"}


def test_there_are_never_more_than_allowed() -> None:
    assert len(followed([node(name) for name in "abcde"], most=3)) == 3


names = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(before=names, now=names)
def test_who_has_a_seat_keeps_it_and_no_name_is_given_twice(before: list[str], now: list[str]) -> None:
    first = followed([node(name) for name in sorted(before)])
    second = followed([node(name) for name in sorted(now)], first)
    assert {seat[0] for seat in second} == set(now)
    assert len(set(second.values())) == len(second)
    assert all(second[seat] == first[seat] for seat in first.keys() & second.keys())
    assert set(seats_by_replica(second).values()) == set(now)


def looks(*, wait_share: float, full_share: float, seconds: float = WINDOW_S + 10) -> list[Look]:
    steps = int(seconds // 5)
    return [Look(at_s=5.0 * index, waited_s=5.0 * index * wait_share, is_full=index < steps * full_share) for index in range(steps + 1)]


@pytest.mark.parametrize(
    ("wait_share", "full_share", "expected"),
    [(0.5, 0.0, 4), (0.1, 0.0, 3), (0.0, 1.0, 2), (0.5, 1.0, 4), (0.1, 1.0, 3)],
)
def test_a_waiting_learner_asks_for_more_and_a_full_queue_for_fewer(wait_share: float, full_share: float, expected: int) -> None:
    assert next_count(3, looks(wait_share=wait_share, full_share=full_share), changed_at_s=-WINDOW_S, least=1, most=8) == expected


def test_nothing_is_decided_before_a_window_is_seen_nor_soon_after_a_change() -> None:
    assert next_count(3, looks(wait_share=0.9, full_share=0.0, seconds=60), changed_at_s=-WINDOW_S, least=1, most=8) == 3
    assert next_count(3, looks(wait_share=0.9, full_share=0.0), changed_at_s=20.0, least=1, most=8) == 3


def test_metrics_scale_within_min_and_max() -> None:
    assert next_count(8, looks(wait_share=0.9, full_share=0.0), changed_at_s=-WINDOW_S, least=1, most=8) == 8
    assert next_count(1, looks(wait_share=0.0, full_share=1.0), changed_at_s=-WINDOW_S, least=1, most=8) == 1


@pytest.mark.parametrize(
    ("generators", "verifiers", "config", "reason"),
    [
        (0, None, GeneratorsConfig(), r"see generators\.min and generators\.max of its run file"),
        (None, 5, GeneratorsConfig(), r"got 5; see verifiers\.max of its run file"),
        (0, None, GeneratorsConfig(), r"--generators must lie between 1 and 256 in this run, got 0"),
        (9, None, GeneratorsConfig(max=8), r"between 1 and 8 in this run, got 9"),
        (1, None, GeneratorsConfig(min=2, count=2), r"between 2 and 256"),
        (None, 0, GeneratorsConfig(), r"--verifiers must lie between 1 and 4 in this run, got 0"),
        (None, 5, GeneratorsConfig(), r"got 5"),
        (2, None, GeneratorsConfig(count="auto", labels=ROLE), r"nodes labelled rlvr.io/role=generator"),
        (2, None, GeneratorsConfig(scaling="metrics"), r'run with "manual"'),
    ],
)
def test_what_a_run_does_not_allow_is_refused_in_one_sentence(
    generators: int | None, verifiers: int | None, config: GeneratorsConfig, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        check_asked(generators, verifiers, config=config, of_verifiers=VerifiersConfig(max=4))
    assert "\n" not in str(refused.value)


def test_what_a_run_allows_passes() -> None:
    check_asked(3, 2, config=GeneratorsConfig(), of_verifiers=VerifiersConfig())
