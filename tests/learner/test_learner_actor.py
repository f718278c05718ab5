"""Two learner ranks as Ray actors: they die, come back from a checkpoint under the next lineage, and stop when they are told to."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file
from tiny_models import batch, config, learner

from actors.learner_actor import LearnerActor
from actors.learner_news import Published, StepResult
from actors.run.store_actor import StoreActor, StoreAddress
from learner import version_log
from learner.checkpoint_report import Damaged, Saved
from rlvr.config import Config, LearnerConfig, RunConfig
from rlvr.errors import QueueError
from rlvr.records import Version
from rlvr.store import FolderStore
from rlvr.wire import pack

pytestmark = [pytest.mark.ray, pytest.mark.processes]

RANKS = 2
DEADLINE_S = 90.0


def make_queue(frames: dict[int, bytes], lineage: int) -> Any:
    """An actor that has these batches and no others, and speaks to one lineage."""

    class Batches:  # defined here, so that Ray takes it along by value
        def next_batch(self, step: int, asked: int, wait_s: float) -> bytes | None:
            if asked != lineage:
                raise QueueError(f"lineage {asked} is gone")
            if step not in frames:
                time.sleep(0.05)
            return frames.get(step)

    return ray.remote(Batches).options(num_cpus=0).remote()


def frames_of(steps: range, *, lineage: int) -> dict[int, bytes]:
    return {step: pack(batch(step=step, lineage=lineage)) for step in steps}


class Group:
    """The ranks of one incarnation of the learner, without any generator."""

    def __init__(self, run: Config, store: Path, *, is_seen: bool) -> None:
        """is_seen: the ranks see the folder of the store; else they reach it through an actor alone."""
        make = ray.remote(LearnerActor).options(num_cpus=0, max_concurrency=8)
        self.ranks = [make.remote(run, rank, "cpu", "gloo") for rank in range(RANKS)]
        self._address = StoreAddress(
            kind="folder", where=str(store), is_shared=False, node_id=ray.get_runtime_context().get_node_id() if is_seen else "another"
        )
        self._store = ray.remote(StoreActor).options(num_cpus=0).remote(str(store))
        self.news: list[Any] = []

    def load(self) -> list[Version]:
        master = ray.get([rank.address.remote() for rank in self.ranks])[0]
        return ray.get([rank.load.remote(master.host, master.store_port, self._address, self._store) for rank in self.ranks])

    def run(self, queue: Any, start: Version) -> list[Any]:
        ray.get(self.ranks[0].open_broadcast.remote())
        ray.get(self.ranks[0].set_members.remote([]))
        return [rank.run.remote(queue, start, True) for rank in self.ranks]

    def hear(self, is_enough: Callable[[Any], bool]) -> None:
        ends_at = time.monotonic() + DEADLINE_S
        while not any(map(is_enough, self.news)):
            assert time.monotonic() < ends_at, self.news
            self.news += ray.get(self.ranks[0].next_news.remote(0.5))

    def kill(self) -> None:
        for actor in (*self.ranks, self._store):
            ray.kill(actor)


@pytest.fixture
def groups(ray_session: None) -> Iterator[Callable[..., Group]]:
    made: list[Group] = []

    def make(run: Config, store: Path, *, is_seen: bool) -> Group:
        made.append(Group(run, store, is_seen=is_seen))
        return made[-1]

    yield make
    for group in made:
        group.kill()


def saved(step: int) -> Callable[[Any], bool]:
    return lambda news: isinstance(news, Saved) and news.version.step == step


def test_killed_ranks_continue_from_the_newest_whole_checkpoint_and_a_stop_leaves_another(
    groups: Callable[..., Group], small_tied: Path, tmp_path: Path, alone: None
) -> None:
    run = config(small_tied, run=RunConfig(num_steps=6, checkpoint_every_steps=2), learner=LearnerConfig(ranks=RANKS, keep=2))
    first = groups(run, tmp_path, is_seen=True)
    assert first.load() == [Version()] * RANKS
    first.run(make_queue(frames_of(range(1, 5), lineage=0), 0), Version())
    first.hear(saved(4))
    assert [news.report.step for news in first.news if isinstance(news, StepResult)] == [1, 2, 3, 4]
    assert [str(news.version) for news in first.news if isinstance(news, Published)][:2] == ["0.0", "0.1"]
    assert [news.kept for news in first.news if isinstance(news, Saved)] == [(2,), (2, 4)]
    assert Version() in version_log.versions(FolderStore(tmp_path))
    first.kill()

    newest = tmp_path / "checkpoints" / "step-000004" / "state" / "__1_0.distcp"
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    second = groups(run, tmp_path, is_seen=False)
    assert second.load() == [Version(step=2)] * RANKS
    queue = make_queue(frames_of(range(3, 6), lineage=1), 1)
    ends = second.run(queue, Version(lineage=1, step=2))
    second.hear(lambda news: isinstance(news, StepResult) and news.report.step == 5)
    assert [news.step for news in second.news if isinstance(news, Damaged)] == [4]
    assert [str(news.version) for news in second.news if isinstance(news, Published)][:2] == ["1.2", "1.3"]
    ray.kill(queue)  # a queue that is away must not keep the learner from stopping
    ray.get(second.ranks[0].stop.remote())
    assert ray.get(ends, timeout=DEADLINE_S) == ["interrupted"] * RANKS
    second.hear(saved(5))

    whole = learner(run)
    for step in range(1, 6):
        whole.train_step(batch(step=step))
    published = whole.export()
    assert published is not None
    found = load_file(tmp_path / "checkpoints" / "step-000005" / "model.safetensors")
    assert found.keys() == published.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, published[name], atol=1e-3, rtol=0)
