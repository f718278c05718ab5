"""Where a run lives: its folder, and the store of what outlives its processes.

Owns both paths and the refusals before either is made. Called by the commands and by `actors.run.folder`; knows no Ray, writes nothing.
Without run.store the run folder is the store; with it the store is a folder of the run's name there, so that a retry on another host finds it.
"""

import os
import re
import shutil
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from actors.run.disk_space import weights_bytes
from actors.run.history import FACTS, MIRROR
from rlvr.config import Config
from rlvr.errors import StoreError, UserError
from rlvr.store import FolderStore, Store, open_root

MIN_FREE_BYTES = 256 * 2**20
"""A run is refused on a disk with less: logs, rollouts and a checkpoint of the smallest model need it."""
LOCK_FILES = ("lock.json", "lock.guard")
"""These and an unfinished mirror of its history may lie in the store of a run that has not begun."""


def default_path(name: str) -> Path:
    """`runs/NAME-TIME`, of the local clock; what a file name cannot hold becomes a dash."""
    return Path("runs") / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{time.strftime('%Y%m%d-%H%M%S')}"


def store_root(config: Config, run_dir: Path) -> str:
    """A folder or a URL: `rlvr.store.open_root` opens it. A `file://` URL is a folder."""
    if not config.run.store:
        return str(run_dir.absolute())
    store = unquote(urlsplit(config.run.store).path) if config.run.store.startswith("file://") else config.run.store
    return f"{store.rstrip('/')}/{config.run.name}"


def open_run_store(config: Config, run_dir: Path) -> Store:
    """The run's store, as the controller's host sees it. Raises UserError for a run.store that nothing here can open."""
    try:
        return open_root(store_root(config, run_dir))
    except StoreError as error:
        raise UserError(f"run.store: {error}; install the package of its scheme, or choose another") from error


def check_can_create(path: Path, config: Config) -> None:
    """Raise UserError where a run cannot write `path` or its store: there is something already, nothing can be made, or the disk is full.

    Of a model that is not here only the least of all runs is asked of the disk; of an object store nothing.
    """
    if _is_there(path, key="--run-dir"):
        raise UserError(
            f"the run folder {path} exists; choose another with --run-dir, or move it away (a run never overwrites one), "
            "or go on with the run in it by --resume must"
        )
    parent = _parent_to_write(path, what="the run folder")
    needed = weights_bytes(config) or 0
    check_free(parent, MIN_FREE_BYTES + (0 if config.run.store else needed), remedy="choose another --run-dir")
    if not config.run.store:
        return
    store = open_run_store(config, path)
    folder = store.root if isinstance(store, FolderStore) else None
    if folder is not None and not _is_there(folder, key="run.store"):
        check_free(_parent_to_write(folder, what="run.store: the folder"), max(MIN_FREE_BYTES, needed), remedy="choose another run.store")
        return
    try:
        names = {entry.name for entry in store.list("")} - set(LOCK_FILES)
    except StoreError as error:
        raise UserError(f"run.store: {error}") from error
    if any(not name.startswith(f"{MIRROR}/") for name in names) or f"{MIRROR}/{FACTS}" in names:
        raise UserError(
            f"run.store: {store_root(config, path)} exists; choose another run.name, or move it away (a run never overwrites one), "
            "or go on with the run in it by --resume must"
        )


def check_free(folder: Path, needed: int, *, remedy: str) -> None:
    """Raise UserError where the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"the disk of {folder} has {_size(free)} free, this run's files and checkpoints need {_size(needed)}; free some, or {remedy}")


def _is_there(path: Path, *, key: str) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, for example
        raise UserError(f"{key}: {path} cannot be made: {error.strerror}") from error


def _parent_to_write(path: Path, *, what: str) -> Path:
    """The nearest folder above `path` that exists. Raises UserError where nothing can be made in it."""
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise UserError(f"{what} {path} cannot be made: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{what} {path} cannot be made: {parent} is not writable")
    return parent


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes >> 20} MiB"
