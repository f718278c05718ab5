"""Laws of a store: the same for a folder and for objects, whole or not at all, never outside its root."""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlvr.errors import StoreError
from rlvr.store import PART, Entry, FolderStore, ObjectStore, Store, open_root


@pytest.fixture(params=["folder", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store; `file` and `memory` go through fsspec, as an object store does."""
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    return ObjectStore(f"file://{tmp_path}/store" if request.param == "file" else f"memory://{secrets.token_hex(8)}/store")


def names(store: Store, prefix: str = "") -> list[str]:
    return [entry.name for entry in store.list(prefix)]


def test_what_was_written_is_read_whole_and_in_pieces(store: Store) -> None:
    store.write("a/b.bin", b"0123456789")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read("a/b.bin", offset=3, size=4) == b"3456"
    assert store.read("a/b.bin", offset=8, size=4) == b"89"
    assert store.read("a/b.bin", offset=7) == b"789"
    assert store.read("a/b.bin", offset=10, size=4) == store.read("a/b.bin", offset=99) == b""


def test_a_second_write_replaces_the_first(store: Store) -> None:
    store.write("a", b"a long first content")
    store.write("a", b"second")
    store.write("empty", b"")
    assert store.read("a") == b"second"
    assert store.read("empty") == b""


def test_what_is_not_there_is_a_file_not_found_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("a/b")
    with pytest.raises(FileNotFoundError):
        store.read("a/b", offset=3)
    with pytest.raises(FileNotFoundError):
        store.download("a/b", tmp_path / "here")
    with pytest.raises(FileNotFoundError):
        store.rename("a", "b")
    assert not (tmp_path / "here").exists()


def test_a_list_names_every_file_below_a_folder_sorted_with_its_size(store: Store) -> None:
    for name in ("log/2", "log/1", "log/deep/er/3", "logs/4", "5"):
        store.write(name, name.encode())
    assert store.list("log") == [Entry("log/1", 5), Entry("log/2", 5), Entry("log/deep/er/3", 13)]
    assert names(store) == ["5", "log/1", "log/2", "log/deep/er/3", "logs/4"]
    assert names(store, "nothing") == []


def test_a_file_and_a_folder_are_removed_and_what_is_not_there_is_no_error(store: Store) -> None:
    for name in ("a/1", "a/b/2", "c"):
        store.write(name, b"x")
    store.remove("a")
    store.remove("never")
    assert names(store) == ["c"]
    store.remove("c")
    assert names(store) == []


def test_a_file_takes_the_name_of_another(store: Store) -> None:
    store.write("old", b"new content")
    store.write("dir/new", b"old content")
    store.rename("old", "dir/new")
    assert names(store) == ["dir/new"]
    assert store.read("dir/new") == b"new content"


def test_a_folder_takes_another_name_with_all_its_files(store: Store) -> None:
    store.write("partial/1", b"1")
    store.write("partial/state/2", b"2")
    store.rename("partial", "step-000001")
    assert names(store) == ["step-000001/1", "step-000001/state/2"]


def test_a_folder_does_not_take_the_place_of_one_that_holds_files(store: Store) -> None:
    store.write("a/1", b"1")
    store.write("b/1", b"2")
    with pytest.raises(StoreError):
        store.rename("a", "b")
    assert store.read("b/1") == b"2"


def test_a_file_of_this_host_goes_there_and_comes_back(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.store.PIECE_BYTES", 1000)
    given = os.urandom(4321)
    (tmp_path / "given").write_bytes(given)
    store.upload(tmp_path / "given", "weights/0.1")
    store.download("weights/0.1", tmp_path / "new folder" / "back")
    assert store.read("weights/0.1") == given == (tmp_path / "new folder" / "back").read_bytes()
    assert sorted(path.name for path in (tmp_path / "new folder").iterdir()) == ["back"]


def test_no_name_leads_out_of_the_store(store: Store) -> None:
    for name in ("", "/etc/passwd", "../a", "a/../../b", "a//b", "a/", "."):
        with pytest.raises(ValueError, match="relative"):
            store.read(name)


def test_a_folder_is_written_at_any_place_and_in_any_order(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.write_at("a/b", b"456", offset=4)
    store.write_at("a/b", b"0123", offset=0)
    assert store.read("a/b") == b"0123456"


def test_an_object_is_only_written_whole() -> None:
    with pytest.raises(StoreError, match="whole"):
        ObjectStore("memory://here").write_at("a", b"1", offset=0)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    store.write("a", b"old")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlvr.store.sync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        store.write("a", b"new")
    assert store.read("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_that_is_still_being_written_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / f".a.0123{PART}").write_bytes(b"half")
    (tmp_path / "a").write_bytes(b"whole")
    assert names(FolderStore(tmp_path)) == ["a"]


def test_what_killed_writers_left_is_swept_unless_it_is_young(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("deep/a", b"whole")
    for number, age in enumerate((0.0, 100.0)):
        part = tmp_path / "deep" / f".a.{number}{PART}"
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age, time.time() - age))
    assert store.sweep(older_s=50.0) == 1
    assert store.sweep(older_s=0.0) == 1
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["a"]
    assert FolderStore(tmp_path / "nothing").sweep(older_s=0.0) == 0


def test_only_a_folder_store_has_paths(tmp_path: Path) -> None:
    assert FolderStore(tmp_path).local("a/b") == tmp_path / "a" / "b"
    assert ObjectStore("memory://here").local("a/b") is None


def test_a_root_is_a_folder_unless_it_is_another_url(tmp_path: Path) -> None:
    for root in (str(tmp_path), f"file://{tmp_path}"):
        folder = open_root(root)
        assert isinstance(folder, FolderStore)
        assert folder.root == tmp_path
    assert isinstance(open_root("memory://here"), ObjectStore)


def test_a_url_that_nothing_can_open_is_an_error_with_the_url() -> None:
    with pytest.raises(StoreError, match=r"no-such-scheme://bucket"):
        open_root("no-such-scheme://bucket")


def test_only_an_object_store_imports_fsspec() -> None:
    code = "import sys, rlvr.store as s, pathlib; s.FolderStore(pathlib.Path('.')); print('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "False"
