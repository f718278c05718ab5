"""Laws of the version log, in a folder."""

import gc
from pathlib import Path

import pytest
from broadcasts import V1, V2, V3, same_bits, weights

from learner import version_log
from learner.weight_codec import digest
from rlvr.errors import BroadcastError
from rlvr.records import Version
from rlvr.store import FolderStore


def logged(root: Path, *versions: Version) -> FolderStore:
    store = FolderStore(root)
    for version in versions:
        tensors = weights(version.step)
        version_log.write(store, version, tensors, digest(tensors), version == V2)
    return store


def test_a_version_comes_back_bit_for_bit(tmp_path: Path) -> None:
    store = logged(tmp_path / "store", V1)
    file = version_log.fetch(store, V1, tmp_path)
    assert same_bits(version_log.load(file, V1), weights(1))


def test_versions_are_listed_by_lineage_and_step_and_pruned_but_for_those_to_keep(tmp_path: Path) -> None:
    rolled_back = Version(lineage=1, step=1)
    tenth = Version(step=10)
    store = logged(tmp_path, rolled_back, tenth, V2, V1)
    assert version_log.versions(store) == [V1, V2, tenth, rolled_back]
    version_log.prune(store, {V2, rolled_back, V3})
    assert version_log.versions(store) == [V2, rolled_back]


def test_a_file_that_is_no_version_is_left_alone(tmp_path: Path) -> None:
    store = logged(tmp_path, V1)
    for name in ("adapter.safetensors", "0.1.copy.safetensors", "old/0.3.safetensors", "0.²5.safetensors"):
        store.write(f"versions/{name}", b"somebody's")
    assert version_log.versions(store) == [V1]
    version_log.prune(store, ())
    assert {path.name for path in (tmp_path / "versions").iterdir()} == {"0.1.copy.safetensors", "0.²5.safetensors", "adapter.safetensors", "old"}


def test_an_empty_log_has_no_versions_and_a_version_that_is_gone_is_no_file(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    assert version_log.versions(store) == []
    with pytest.raises(FileNotFoundError):
        version_log.fetch(store, V1, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_file_with_other_bits_or_of_another_version_is_refused(tmp_path: Path) -> None:
    store = logged(tmp_path / "store", V1)
    version_log.write(store, V2, weights(2), digest(weights(3)), False)
    with pytest.raises(BroadcastError, match=r"names version 0\.2 of digest .*, its bits have"):
        version_log.load(version_log.fetch(store, V2, tmp_path), V2)
    first = version_log.fetch(store, V1, tmp_path)
    with pytest.raises(BroadcastError, match=r"names version 0\.1 .* version 0\.3 was asked for"):
        version_log.load(first, V3)
    whole = first.read_bytes()
    for torn in (whole[: len(whole) // 2], b"", bytes(8)):
        first.write_bytes(torn)
        with pytest.raises(BroadcastError, match=r"is no file of the version log"):
            version_log.load(first, V1)
    with pytest.raises(BroadcastError, match=r"is no file of the version log"):
        version_log.load(tmp_path / "missing", V1)


def test_loaded_tensors_outlive_their_file(tmp_path: Path) -> None:
    file = version_log.fetch(logged(tmp_path / "store", V1), V1, tmp_path)
    tensors = version_log.load(file, V1)
    file.unlink()
    gc.collect()
    assert same_bits(tensors, weights(1))
