"""Checkpoints of a learner: written behind training's back, whole or not at all, and read back with proof.

Owns the order of a save and of a load over all ranks, each of which may be on another host: one that sees the store as a folder writes in place,
another one writes into a scratch folder and uploads it. Training stands only while the state is copied to host memory; the rest happens in a thread,
whose collectives have a group of their own. Called by the learner actor; the files are `learner.checkpoint_files`, what is in them
`learner.checkpoint_state`.
"""

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor

from learner import checkpoint_files as files
from learner import process_group
from learner.checkpoint_files import STATE, DamagedError, File, Marker
from learner.checkpoint_index import StateReader
from learner.checkpoint_report import Damaged, Saved, SaveFailed
from learner.checkpoint_state import adopt, exact_state, write_model
from learner.learner import Learner
from rlvr.errors import LearnerError, StoreError, UserError
from rlvr.records import Version
from rlvr.store import Store, sync

logger = logging.getLogger(__name__)

FAILURES_MAX = 2
"""So many checkpoints in a row that cannot be written end the run: what it trains would be lost."""
WRITE_DEADLINE_S = 1800.0
"""A store that hangs tells nobody. The largest state that one learner has is on a slow disk within this; who waits longer waits for nothing."""
WRITE_ERRORS = (OSError, StoreError, SafetensorError)
"""What a full disk or a lost store looks like: safetensors tells of it in an error of its own."""

T = TypeVar("T")


class _FailedError(LearnerError):
    """A part of the work failed on one rank: every rank raises this."""


@dataclass(frozen=True)
class Restored:
    """What a load found. version: None where there is no checkpoint. damaged: those that were passed over, newest first."""

    version: Version | None
    damaged: tuple[Damaged, ...] = ()


@dataclass(frozen=True)
class _Copy:
    """One checkpoint on its way: the state as of `version`, in host memory or already on the disk."""

    version: Version
    own: Path
    """This rank's files, until they are delivered."""
    tensors: dict[str, Tensor] | None
    is_written: Future[object]
    started: float
    pause_s: float


class Checkpoints:
    """The checkpoints of one learner in a store. `load`, `begin` and `finish` are collective; at most one checkpoint is under way."""

    def __init__(
        self,
        learner: Learner,
        store: Store,
        *,
        report: Callable[[Saved | SaveFailed], None] = lambda _: None,
        deadline_s: float = WRITE_DEADLINE_S,
    ) -> None:
        """Collective. report: called on rank 0 when a checkpoint is durable or has failed, mostly in the thread that writes. deadline_s: for each."""
        self._learner = learner
        self._store = store
        self._report = report
        self._group = process_group.beside()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._deadline_s = deadline_s
        self._token = ""
        """Says on all ranks, and in the store, which learner this is; empty before it has claimed the store."""
        self._under_way: tuple[_Copy, Future[str]] | None = None
        self._num_failures = 0
        self._damaged: frozenset[int] = frozenset()
        self.newest: Version | None = None
        """The last one that was loaded or is known to be durable."""

    def begin(self, tensors: dict[str, Tensor] | None) -> None:
        """Checkpoint what the learner holds; returns when it is copied. Waits for the one before.

        tensors: what the learner's `export` gave. Raises LearnerError as `finish` does.
        """
        started = time.monotonic()
        self.finish()
        self._claim()
        version = self._learner.version
        own = self._own_folder(version)
        shutil.rmtree(own, ignore_errors=True)
        is_written = dcp.async_save(exact_state(self._learner), checkpoint_id=own / STATE, process_group=self._group)
        assert isinstance(is_written, Future)
        copy = _Copy(version, own, tensors, is_written, started, pause_s=time.monotonic() - started)
        self._under_way = copy, self._thread.submit(self._write, copy)

    def finish(self) -> None:
        """Wait for the checkpoint under way.

        Raises LearnerError when this is the second in a row that could not be written, when the store hangs, and when it is another learner's by now.
        """
        if self._under_way is None:
            return
        (copy, written), self._under_way = self._under_way, None
        if not wait((written,), timeout=max(0.0, copy.started + self._deadline_s - time.monotonic())).done:
            self._hangs(copy)
        failure = written.result()
        if not failure:
            self.newest, self._num_failures = copy.version, 0
            return
        self._num_failures += 1
        if self._num_failures >= FAILURES_MAX:
            raise LearnerError(f"{self._num_failures} checkpoints in a row could not be written; the last one: {failure}")

    def load(self) -> Restored:
        """Make the learner continue from the newest checkpoint that is whole; the learner stays as it is where there is none at all.

        Claims the store: a learner that loaded before writes nothing more. Newer checkpoints that were passed over lose their markers, since the run
        trains their steps anew. Raises LearnerError where all are damaged: training never starts again from the model in silence. Raises UserError
        for one of another model.
        """
        self._claim()
        marked, unmarked = self._agree(self._look)[0] or ([], [])
        damaged = [Damaged(step=step, reason=f"it has no {files.MARKER}: {files.WHY_UNMARKED}") for step in unmarked]
        for step in reversed(marked):
            version, reason = self._restore(step)
            if version is not None:
                self.newest = version
                break
            damaged.append(Damaged(step=step, reason=reason))
        self._damaged = frozenset(found.step for found in damaged)
        damaged.sort(key=lambda found: -found.step)
        for found in damaged:
            logger.warning("checkpoint step=%d is damaged and is not used, now or later: %s", found.step, found.reason)
        if marked and self.newest is None:
            reasons = "; ".join(f"step {found.step}: {found.reason}" for found in damaged)
            raise LearnerError(f"every checkpoint of the run is damaged, so that it cannot continue ({reasons})")
        self._agree(lambda: self._pass_over(self._damaged.intersection(marked)))
        return Restored(self.newest, tuple(damaged))

    def close(self) -> None:
        """End the thread, without waiting for a checkpoint under way."""
        self._thread.shutdown(wait=False)

    def _claim(self) -> None:
        """Once in a learner's life, collective: the store is this learner's."""
        if not self._token:
            self._token = self._agree(self._made_owner)[0]

    def _made_owner(self) -> str:
        if self._learner.rank != 0:
            return ""
        token = secrets.token_hex(8)
        files.claim(self._store, token)
        return token

    def _pass_over(self, steps: Iterable[int]) -> None:
        for step in steps if self._learner.rank == 0 else ():
            files.pass_over(self._store, step)

    def _own_folder(self, version: Version) -> Path:
        """Where this rank writes first: on the store's own disk, so that delivering is renaming, or in this host's scratch space."""
        local = self._store.local(files.hidden_of(version, self._token, f"rank-{self._learner.rank}"))
        return local or Path(tempfile.gettempdir()) / f"firesteel-checkpoint-{os.getpid()}-{self._learner.rank}"

    def _hangs(self, copy: _Copy) -> NoReturn:
        reason = f"it is not written after {self._deadline_s:.0f} s: the store hangs"
        if self._learner.rank == 0:
            self._report(SaveFailed(version=copy.version, reason=reason, seconds=time.monotonic() - copy.started))
        raise LearnerError(f"the checkpoint of version {copy.version} failed: {reason}")

    def _write(self, copy: _Copy) -> str:
        """In the thread, on every rank: all that is left of a save. Returns why it failed, or nothing."""
        rank = self._learner.rank
        try:
            self._agree(lambda: self._make_files(copy))
            delivered = self._agree(lambda: self._deliver(copy))
            marker = files.encode_marker(copy.version, [file for of_rank in delivered for file in of_rank], world_size=self._learner.world_size)
            kept = self._agree(lambda: self._complete(copy.version, marker) if rank == 0 else ())[0]
        except _FailedError as error:
            self._give_up(copy, str(error))
            return str(error)
        except LearnerError:  # the store is another learner's
            with contextlib.suppress(OSError, StoreError):
                self._store.remove(files.partial_of(copy.version, self._token))
            raise
        finally:
            shutil.rmtree(copy.own, ignore_errors=True)
        if rank == 0:
            seconds = time.monotonic() - copy.started
            self._report(Saved(version=copy.version, kept=kept, seconds=seconds, pause_s=copy.pause_s))
        return ""

    def _make_files(self, copy: _Copy) -> None:
        """This rank's files, in its own folder; rank 0 clears the place where those of all ranks come together."""
        try:
            copy.is_written.result()
        except dcp.CheckpointException as error:
            free = shutil.disk_usage(next(folder for folder in copy.own.parents if folder.is_dir())).free
            raise StoreError(f"the exact state could not be written: {_reason(error)} (the disk has {free >> 20} MiB free)") from error
        if self._learner.rank == 0:
            assert copy.tensors is not None
            write_model(self._learner, copy.own, copy.tensors)
            self._store.remove(files.partial_of(copy.version, self._token))

    def _deliver(self, copy: _Copy) -> list[File]:
        """Bring this rank's files, durably, to those of the others."""
        made = files.written(copy.own)
        partial = files.partial_of(copy.version, self._token)
        local = self._store.local(partial)
        for file in made:
            if local is None:
                self._store.upload(copy.own / file.name, f"{partial}/{file.name}")
                continue
            sync(copy.own / file.name)
            (local / file.name).parent.mkdir(parents=True, exist_ok=True)
            (copy.own / file.name).replace(local / file.name)
        if local is not None:
            for folder in {(local / file.name).parent for file in made}:
                sync(folder)
        return made

    def _complete(self, version: Version, marker: bytes) -> tuple[int, ...]:
        """On rank 0: the checkpoint gets its name and its marker. Returns the steps of those that are there now."""
        step = version.step
        files.complete(self._store, version, marker, token=self._token)
        self._damaged -= {step}
        try:
            files.require_owner(self._store, self._token)
            return files.prune(self._store, step, keep=self._learner.config.learner.keep, damaged=self._damaged)
        except (OSError, StoreError) as error:
            logger.warning("old checkpoints could not be removed and take up space until the next one is written: %s", error)
            return tuple(known for known in files.marked_steps(self._store) if known <= step and known not in self._damaged)

    def _give_up(self, copy: _Copy, reason: str) -> None:
        if self._learner.rank != 0:
            return
        step = copy.version.step
        logger.error("checkpoint version=%s could not be written, the next one is tried at its turn; free some disk: %s", copy.version, reason)
        try:
            self._store.remove(files.partial_of(copy.version, self._token))
            files.require_owner(self._store, self._token)
            if step in files.unmarked_steps(self._store):
                self._store.remove(files.folder_of(step))
        except (OSError, StoreError) as error:
            logger.warning("what the failed checkpoint has left could not be removed: %s", error)
        self._report(SaveFailed(version=copy.version, reason=reason, seconds=time.monotonic() - copy.started))

    def _look(self) -> tuple[list[int], list[int]] | None:
        """On rank 0: steps with and without a marker; what killed saves have left goes."""
        if self._learner.rank != 0:
            return None
        files.remove_leftovers(self._store)
        return files.marked_steps(self._store), files.unmarked_steps(self._store)

    def _restore(self, step: int) -> tuple[Version | None, str]:
        """Read one checkpoint into the learner. Returns its version, or None and what is wrong with it."""
        marker, reason = self._agree(lambda: self._proved(step))[0]
        if marker is None:
            return None, reason
        with tempfile.TemporaryDirectory(prefix="firesteel-checkpoint-") as scratch:
            folder = self._store.local(files.folder_of(step))
            reasons = self._agree(lambda: self._fetched(step, marker, Path(scratch)) if folder is None else "")
            if any(reasons):
                return None, next(filter(None, reasons))
            self._read(step, (folder or Path(scratch)) / STATE)
        self._learner.version = Version.parse(marker.version)
        return self._learner.version, ""

    def _proved(self, step: int) -> tuple[Marker | None, str]:
        """On rank 0: the marker of a checkpoint whose files are whole; those that are fetched anyhow are looked at then."""
        if self._learner.rank != 0:
            return None, ""
        try:
            marker = files.read_marker(self._store, step)
            is_here = self._store.local(files.folder_of(step)) is not None
            files.check_files(self._store, step, marker.files if is_here else files.each(marker.files, is_state=False))
        except DamagedError as error:
            return None, str(error)
        return marker, ""

    def _fetched(self, step: int, marker: Marker, scratch: Path) -> str:
        try:
            files.fetch(self._store, step, files.each(marker.files, is_state=True), scratch)
        except DamagedError as error:
            return str(error)
        return ""

    def _read(self, step: int, folder: Path) -> None:
        state = exact_state(self._learner)
        try:
            dcp.load(state, storage_reader=StateReader(folder), process_group=self._group)
        except (dcp.CheckpointException, OSError, RuntimeError, ValueError) as error:
            policy = self._learner.config.model.policy
            raise UserError(f"the checkpoint {files.folder_of(step)} does not fit the model {policy}: {error}") from error
        adopt(self._learner, state)

    def _agree(self, action: Callable[[], T]) -> list[T]:
        """Act on every rank, then hear of all of them: what each returned. Raises _FailedError on every rank where one of them could not write."""
        heard: list[tuple[T, str] | tuple[None, str] | None] = [None] * self._learner.world_size
        mine: tuple[T, str] | tuple[None, str] = (None, "another error")
        try:
            mine = action(), ""
        except WRITE_ERRORS as error:
            mine = None, _first_line(error)
        finally:  # whatever was raised here, the others must not wait
            dist.all_gather_object(heard, mine, group=self._group)
        failures = dict.fromkeys(told[1] for told in heard if told is not None and told[1])
        if failures:
            raise _FailedError("; ".join(failures))
        return [told[0] for told in heard]  # type: ignore[index,misc]


def _reason(error: dcp.CheckpointException) -> str:
    """What went wrong on the ranks that failed, a line each; torch's own text is a list of stacks."""
    return "; ".join(dict.fromkeys(_first_line(failure) for failure, _ in error.failures.values()))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
