"""Laws of a checkpoint's index: it names shapes and places of tensors, and can name nothing else."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from learner.checkpoint_index import StateReader, _Unpickler

pytestmark = pytest.mark.filterwarnings("ignore:.*no_dist.*", "ignore:torch.distributed is disabled.*")


def state(value: float, dtype: torch.dtype) -> dict[str, Any]:
    return {"weights": {"a": torch.full((4, 3), value, dtype=dtype)}, "updates": torch.tensor(value)}


class Runs:
    """A pickle of this makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_torch_has_saved_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    dcp.save(state(3.0, dtype), checkpoint_id=tmp_path, no_dist=True)
    read = state(0.0, dtype)
    dcp.load(read, storage_reader=StateReader(tmp_path), no_dist=True)
    assert torch.equal(read["weights"]["a"], state(3.0, dtype)["weights"]["a"])
    assert read["updates"] == 3.0


def test_an_index_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    dcp.save(state(3.0, torch.float32), checkpoint_id=folder, no_dist=True)
    (folder / ".metadata").write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(pickle.UnpicklingError, match="mkdir is no part"):
        StateReader(folder).read_metadata()
    assert not (tmp_path / "ran").exists()
    pickle.loads((folder / ".metadata").read_bytes())
    assert (tmp_path / "ran").exists(), "the attack itself is none"


@pytest.mark.parametrize(("owner", "name"), [(os, "system"), (_MEM_FORMAT_ENCODING, "__class__"), (torch.Size, "__init__")])
def test_an_attribute_of_anything_but_the_members_of_its_enumeration_is_refused(tmp_path: Path, owner: Any, name: str) -> None:
    dcp.save(state(3.0, torch.float32), checkpoint_id=tmp_path, no_dist=True)
    data = b"\x80\x04cbuiltins\ngetattr\n(c" + f"{getattr(owner, '__module__', 'os')}\n{getattr(owner, '__name__', 'path')}\n".encode()
    (tmp_path / ".metadata").write_bytes(data + f"V{name}\ntR.".encode())
    with pytest.raises((pickle.UnpicklingError, KeyError)):
        StateReader(tmp_path).read_metadata()


def test_a_member_that_is_pickled_by_its_name_is_read() -> None:
    data = b"\x80\x04cbuiltins\ngetattr\n(ctorch.distributed.checkpoint.metadata\n_MEM_FORMAT_ENCODING\nVTORCH_CONTIGUOUS_FORMAT\ntR."
    assert _Unpickler(io.BytesIO(data)).load() is _MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT
