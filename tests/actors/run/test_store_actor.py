"""Laws of a store that another host has: what it does is what the folder does, and a restarted actor is as good as the first."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.cluster import Cluster
from actors.fleet.blueprints import STORE_CALLS, Blueprints
from actors.run.store_actor import RemoteStore, StoreActor, StoreAddress, open_store
from rlvr.config import Config
from rlvr.errors import StoreError
from rlvr.store import FolderStore, ObjectStore

pytestmark = pytest.mark.ray


@pytest.fixture
def actor(ray_session: None, tmp_path: Path) -> Iterator[Any]:
    handle = ray.remote(StoreActor).options(num_cpus=0, max_restarts=-1, max_concurrency=4).remote(str(tmp_path / "store"))
    yield handle
    ray.kill(handle)


def test_a_remote_store_does_what_its_folder_does(actor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.run.store_actor.PIECE_BYTES", 1000)
    store, folder = RemoteStore(actor), FolderStore(tmp_path / "store")
    store.write("a/1", b"0123456789")
    assert store.read("a/1", offset=3, size=4) == folder.read("a/1", offset=3, size=4) == b"3456"
    for size in (0, 1, 1000, 4321):
        (tmp_path / "given").write_bytes(os.urandom(size))
        store.upload(tmp_path / "given", f"b/{size}")
        store.download(f"b/{size}", tmp_path / "back")
        assert (tmp_path / "given").read_bytes() == folder.read(f"b/{size}") == (tmp_path / "back").read_bytes()
    store.rename("a", "c")
    store.remove("b/0")
    assert store.list("") == folder.list("")
    assert [entry.name for entry in store.list("")] == ["b/1", "b/1000", "b/4321", "c/1"]
    assert list((tmp_path / "store").rglob("*.part")) == []
    assert store.local("c/1") is None


def test_errors_come_back_as_they_were(actor: Any, tmp_path: Path) -> None:
    store = RemoteStore(actor)
    with pytest.raises(FileNotFoundError):
        store.read("nothing")
    with pytest.raises(FileNotFoundError):
        store.download("nothing", tmp_path / "back")
    store.write("a/1", b"")
    with pytest.raises(StoreError, match="read"):
        store.read("a")
    with pytest.raises(ValueError, match="relative"):
        store.read("../a")


def test_a_killed_actor_that_ray_restarts_is_waited_for(actor: Any) -> None:
    store = RemoteStore(actor)
    store.write("a", b"1")
    os.kill(ray.get(actor.alive.remote()), signal.SIGKILL)
    store.write("b", b"2")
    assert [entry.name for entry in store.list("")] == ["a", "b"]


def test_an_actor_that_hangs_holds_no_caller_for_ever(actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, pid = RemoteStore(actor), ray.get(actor.alive.remote())
    monkeypatch.setattr("actors.run.store_actor.ANSWER_S", 0.5)
    os.kill(pid, signal.SIGSTOP)
    try:
        asked = time.monotonic()
        with pytest.raises(StoreError, match=r"hangs: write a gave no answer within 0.5 s"):
            store.write("a", b"1")
        assert time.monotonic() - asked < 10.0
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    store.write("b", b"2")
    assert store.read("b") == b"2"


def test_a_runs_store_actor_has_few_threads(ray_session: None, tmp_path: Path) -> None:
    address = StoreAddress(kind="folder", where=str(tmp_path), is_shared=False, node_id="")
    cluster = Cluster(address="", namespace="test", is_ours=True, num_gpus=0)
    blueprints = Blueprints(Config(), None, cluster, store=address, journal="")  # type: ignore[arg-type]  # a store needs no plan
    blueprints.make_store()
    try:
        pid = ray.get(blueprints.store_actor.alive.remote())
        assert STORE_CALLS <= len(list(Path(f"/proc/{pid}/task").iterdir())) < 256
    finally:
        ray.kill(blueprints.store_actor)


def test_an_actor_that_is_gone_for_good_is_an_error(actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.run.store_actor.DEATH_S", 0.5)
    ray.kill(actor)
    with pytest.raises(StoreError, match="has not answered"):
        RemoteStore(actor).list("")


def test_a_store_is_opened_as_it_is_reached_best(actor: Any, tmp_path: Path) -> None:
    here = ray.get_runtime_context().get_node_id()

    def opened(**facts: Any) -> object:
        return type(open_store(StoreAddress(**{"kind": "folder", "where": str(tmp_path), "is_shared": False, "node_id": "other", **facts}), actor))

    assert opened() is RemoteStore
    assert opened(node_id=here) is opened(is_shared=True) is FolderStore
    assert opened(kind="url", where="memory://here") is ObjectStore
