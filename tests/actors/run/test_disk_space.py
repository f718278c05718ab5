"""Laws of the disk estimate: exact for the model that lies here, silent about one that does not."""

import json
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save_file

from actors.run.disk_space import checkpoints_at_once, count_params, weights_bytes
from rlvr.config import Config


def config(**tables: dict[str, object]) -> Config:
    return msgspec.convert(tables, Config)


def test_parameters_are_counted_from_the_header_of_one_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert count_params(tmp_path) == 22


def test_parameters_of_several_files_are_those_of_the_index_alone(tmp_path: Path) -> None:
    for name, shape in (("one", (2, 2)), ("two", (3,)), ("consolidated", (1000,))):
        save_file({name: torch.zeros(shape)}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {"one": "one.safetensors", "two": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert count_params(tmp_path) == 7


def test_nothing_is_said_of_a_model_that_is_not_here_or_not_readable(tmp_path: Path) -> None:
    assert count_params(tmp_path) is None
    for content in (b"", b"\xff" * 16, (2).to_bytes(8, "little") + b"[]", (4).to_bytes(8, "little") + b"{{{{"):
        (tmp_path / "model.safetensors").write_bytes(content)
        assert count_params(tmp_path) is None
    assert weights_bytes(config(model={"policy": "owner/model"})) is None


def test_a_checkpoint_holds_bf16_weights_masters_and_two_moments_and_the_log_three_versions(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(10)}, tmp_path / "model.safetensors")
    one = {"checkpoint_every_steps": 0}
    assert weights_bytes(config(model={"policy": str(tmp_path)}, run=one)) == 10 * (2 + 3 * 4 + 3 * 2)
    assert weights_bytes(config(model={"policy": str(tmp_path), "param_dtype": "bfloat16"}, run=one)) == 10 * (2 + 3 * 2 + 3 * 2)


def test_the_disk_holds_the_kept_checkpoints_and_the_one_being_written_or_all_that_are_made() -> None:
    assert checkpoints_at_once(config(run={"num_steps": 100, "checkpoint_every_steps": 10}, learner={"keep": 2})) == 3
    assert checkpoints_at_once(config(run={"num_steps": 11, "checkpoint_every_steps": 10}, learner={"keep": 5})) == 2
    assert checkpoints_at_once(config(run={"num_steps": 100, "checkpoint_every_steps": 0}, learner={"keep": 5})) == 1
