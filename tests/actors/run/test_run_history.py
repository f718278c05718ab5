"""Laws of a run's history in a store elsewhere: what was pushed comes back, and the newer file of a run is never replaced by an older one."""

import secrets
from pathlib import Path

import pytest

from actors.run.history import EVENTS, FACTS, FactsSoFar, decode_facts, pull_history, push_history
from rlvr.errors import UserError
from rlvr.store import ObjectStore, Store


@pytest.fixture
def store() -> Store:
    return ObjectStore(f"memory://{secrets.token_hex(8)}")


def test_what_was_pushed_comes_back_whole_lines_only(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / EVENTS).write_bytes(b'{"a":1}\n{"b":2}\n{"tor')
    (tmp_path / "a" / FACTS).write_bytes(b"{}")
    (tmp_path / "a" / "summary.json").write_bytes(b"{}")
    for _ in range(2):
        push_history(tmp_path / "a", store)
    pull_history(store, tmp_path / "b")
    assert {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()} == {EVENTS: b'{"a":1}\n{"b":2}\n', FACTS: b"{}"}


def test_a_folder_that_is_further_than_the_store_stays_and_one_that_went_another_way_is_replaced(store: Store, tmp_path: Path) -> None:
    store.write(f"history/{EVENTS}", b"1\n2\n")
    for there, kept in ((b"1\n2\n3\n", b"1\n2\n3\n"), (b"1\n2\n3\n{tor", b"1\n2\n3\n{tor"), (b"1\n", b"1\n2\n"), (b"1\nx\n3\n", b"1\n2\n")):
        (tmp_path / EVENTS).write_bytes(there)
        pull_history(store, tmp_path)
        assert (tmp_path / EVENTS).read_bytes() == kept


def test_facts_that_cannot_be_read_are_refused() -> None:
    for data, sentence in ((None, "no facts.json"), (b"{", "cannot be read"), (b"[]", "cannot be read"), (b'{"format": 9}', "of format 9")):
        with pytest.raises(UserError, match=sentence):
            decode_facts(data, where="here")
    assert decode_facts(b'{"format": 1, "name": "r"}', where="here") == FactsSoFar(name="r")
