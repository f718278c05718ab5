"""The version log: whole published versions as files of the run's store, for those who come too late for a broadcast.

Owns the files `versions/LINEAGE.STEP.safetensors`: bf16 tensors by checkpoint name, and in the metadata version, digest and whether it was to be
kept. Written by the learner; read by generators that join, and by those that evaluate what another one left. Knows torch; no Ray, no vLLM.
"""

import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from learner.weight_codec import digest as digest_of
from learner.weight_group import first_line
from rlvr.errors import BroadcastError
from rlvr.records import Version
from rlvr.store import Store

FOLDER = "versions"
ENDING = ".safetensors"

_VERSION = re.compile(rf"{FOLDER}/([0-9]+\.[0-9]+){re.escape(ENDING)}")


def write(store: Store, version: Version, tensors: Mapping[str, torch.Tensor], digest: str, keep: bool) -> None:
    """Add a version, whole or not at all; a file of the same version is replaced. Raises StoreError.

    A local file of its size lies in the temporary folder meanwhile.
    """
    metadata = {"version": str(version), "digest": digest, "keep": str(keep).lower()}
    with tempfile.TemporaryDirectory(prefix="firesteel-version-") as folder:
        file = Path(folder) / file_name(version)
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file, metadata)
        store.upload(file, f"{FOLDER}/{file.name}")


def versions(store: Store) -> list[Version]:
    """What the log has, oldest first; other files are nothing to it."""
    found = (_VERSION.fullmatch(entry.name) for entry in store.list(FOLDER))
    return sorted(Version.parse(match[1]) for match in found if match)


def fetch(store: Store, version: Version, folder: Path) -> Path:
    """A copy of this version's file in `folder`, which stays the caller's. Raises FileNotFoundError where the log has it no more, StoreError."""
    file = folder / file_name(version)
    store.download(f"{FOLDER}/{file.name}", file)
    return file


def prune(store: Store, keep: Collection[Version]) -> None:
    """Remove all versions but these."""
    for version in versions(store):
        if version not in keep:
            store.remove(f"{FOLDER}/{file_name(version)}")


def load(file: Path, version: Version) -> dict[str, torch.Tensor]:
    """The tensors of a fetched file. Raises BroadcastError unless it is whole, of this version, and its bits have the digest that it names."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        found = digest_of(tensors)
    except (OSError, SafetensorError, ValueError) as error:
        raise BroadcastError(f"{file} is no file of the version log: {first_line(error)}") from error
    if metadata.get("version") != str(version) or metadata.get("digest") != found:
        named = f"version {metadata.get('version')} of digest {metadata.get('digest')}"
        raise BroadcastError(f"{file} names {named}, its bits have {found}; version {version} was asked for")
    return tensors


def file_name(version: Version) -> str:
    """The name of this version's file, without its folder."""
    return f"{version}{ENDING}"
