"""Laws of what an engine is started with; vLLM itself is not needed for them."""

import os
from collections.abc import Iterator

import pytest

from actors.engine.device import check_same
from actors.engine.settings import EngineSettings, prepare_environment
from rlvr.errors import EngineError


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of this process, given back as it was."""
    before = dict(os.environ)
    yield monkeypatch
    os.environ.clear()
    os.environ.update(before)


def test_an_engine_on_the_cpu_sees_no_gpu_whatever_the_environment_says(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    environment.setenv("VLLM_TARGET_DEVICE", "cuda")
    prepare_environment(EngineSettings(model="m", device="cpu"))
    assert (os.environ["VLLM_TARGET_DEVICE"], os.environ["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")


def test_an_engine_on_gpus_keeps_those_that_it_was_given(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CUDA_VISIBLE_DEVICES", "3")
    environment.delenv("VLLM_TARGET_DEVICE", raising=False)
    prepare_environment(EngineSettings(model="m", device="cuda"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert "VLLM_TARGET_DEVICE" not in os.environ


def test_what_the_user_has_set_beside_the_device_stays(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    prepare_environment(EngineSettings(model="m", device="cpu"))
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"


@pytest.mark.parametrize(
    ("asked", "chosen", "message"),
    [
        ("cpu", "cuda", 'is "cpu", but vLLM runs on "cuda"'),
        ("cuda", "cpu", 'is "cuda", but vLLM runs on "cpu"'),
        ("cuda", "", "vLLM finds no device"),
    ],
)
def test_an_engine_on_another_device_than_asked_for_is_refused(asked: str, chosen: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_same(asked, chosen)
    check_same(asked, asked)
