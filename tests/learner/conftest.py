"""One process that is a whole learner: the default group with a single rank, for the tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import qwen2, save

from learner import process_group


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    process_group.join(0, 1, "127.0.0.1", 0, "cpu")
    yield
    process_group.leave()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of hidden size 64, untied."""
    return save(qwen2(hidden=64), tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def small_tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with tied embeddings."""
    return save(qwen2(hidden=64, tied=True), tmp_path_factory.mktemp("models") / "small-tied")
