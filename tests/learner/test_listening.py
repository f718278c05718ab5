"""Laws of the ports of learner and broadcast: they listen on the address that they were given, and on no other of the machine."""

import socket
from collections.abc import Callable

import pytest

from learner import process_group
from learner.weights import WeightSender


def rendezvous() -> tuple[object, int]:
    store = process_group.open_store("127.0.0.1")
    return store, store.port


def sender() -> tuple[object, int]:
    made = WeightSender("127.0.0.1")
    return made, made.address[1]


@pytest.mark.parametrize("opened", [rendezvous, sender])
def test_a_store_listens_on_its_own_address_alone(opened: Callable[[], tuple[object, int]]) -> None:
    held, port = opened()
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)  # the same machine by another address
    assert held
