"""The index of a checkpoint's exact state, read so that it can name shapes and places and nothing else.

torch keeps the index (`.metadata`) as a pickle and loads it as one: whoever wrote it would run what he likes. Here only the classes that an index of
tensors is made of may be named in it; their values lie in files that torch reads with `weights_only`. Called by `learner.checkpoint`.
"""

import pickle
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, StorageMeta

_METADATA = "torch.distributed.checkpoint.metadata"
ALLOWED = frozenset(
    {
        ("pathlib", "PosixPath"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        *((_METADATA, name) for name in ("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta")),
        *((_METADATA, name) for name in ("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING")),
    }
)


class StateReader(FileSystemReader):
    """Reads a state's folder; raises UnpicklingError for an index that names anything else."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as stream:
            metadata: Metadata = _Unpickler(stream).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) not in ALLOWED and not is_dtype:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint's index")
        return super().find_class(module, name)


def _member(owner: Any, name: str) -> Any:
    """How some Pythons (3.11.2) pickle a member of an enumeration: the name of one, of the only enumeration that an index has."""
    if owner is not _MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"an attribute of {owner!r} is no part of a checkpoint's index")
    return _MEM_FORMAT_ENCODING[name]
