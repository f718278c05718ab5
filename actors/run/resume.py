"""Whether a run starts, goes on, or is over: what `--resume` decides before anything is started or written.

Owns the refusals, which keys of a run file may change between one process of a run and the next, and the first acts on a run that goes on: its lock,
its history, its folder. Called by `firesteel run`; knows no Ray.
"""

import contextlib
import fnmatch
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from actors.journal import reading as journal_reading
from actors.journal.files import ObjectFiles
from actors.run.folder import RunFolder
from actors.run.history import CONFIG, FACTS, MIRROR, FactsSoFar, decode_facts, pull_history, push_history, read_history
from actors.run.lock import STALE_S, LockReading, LockState, RunLock, is_here, read_lock
from actors.run.place import LOCK_FILES, check_can_create, default_path, open_run_store, store_root
from learner import checkpoint_files
from rlvr.config import Config
from rlvr.config_file import parse_config
from rlvr.errors import ConfigError, FiresteelError, StoreError, UserError
from rlvr.store import FolderStore, Store, open_root

logger = logging.getLogger(__name__)

Mode = Literal["must", "auto"]
FINISHED = "finished"
WAIT_S = 45.0
"""`--resume auto` waits so long for an owner that may be dead: longer than a dead one's last heartbeat stays young."""
WAIT_ELSEWHERE_S = 150.0
"""The same for an owner on another machine: a pod that is told to go beats until its grace period is over; its successor may start before."""
LOOK_S = 1.0
PUSH_S = 60.0
"""What a run costs is known to a store elsewhere after so long at the latest."""
MAY_CHANGE = (
    "run.checkpoint_every_steps",
    "run.eval_every_steps",
    "run.keep_rollouts_gib",
    "run.grace_s",
    "run.max_restarts",
    "generators.*",
    "verifiers.count",
    "verifiers.max",
    "verifiers.workers",
    "verifiers.labels",
    "verifiers.require",
    "learner.*",
    "queue.lease_s",
    "queue.silence_s",
    "queue.journal",
    "queue.commit_s",
    "queue.keep_segments",
    "weights.*",
    "metrics.*",
    "cost.*",
)
"""Where and how fast a run goes. What its training says stays as it was."""
BITS = (
    "generators.max_num_seqs",
    "generators.tensor_parallel",
    "generators.device",
    "generators.threads",
    "generators.enforce_eager",
    "learner.ranks",
    "learner.device",
    "learner.threads",
    "learner.logprob_chunk_tokens",
)
"""What the last bit of a result depends on: it may not change in deterministic mode."""
SHOWN = 5


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is there: a new run."""

    run_dir: Path
    silent: str = ""
    """As of Resume: of an owner that died before it had written anything else."""


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """An unfinished run goes on."""

    run_dir: Path
    facts: FactsSoFar
    changed: tuple[str, ...]
    """Keys of the run file that are others than before, all of which may change."""
    silent: str = ""
    """Token of an owner that was watched and did not beat, whatever its clock says."""


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """There is nothing to do."""

    run_dir: Path
    sentence: str


class OpenRun:
    """A run that this process owns: its folder, its store, its lock. `before`: what it has come to, None for a new one."""

    def __init__(self, folder: RunFolder, store: Store, lock: RunLock, *, before: FactsSoFar | None, is_mirrored: bool) -> None:
        self.folder = folder
        self.store = store
        self.lock = lock
        self.before = before
        self._is_mirrored = is_mirrored
        self._pushed_at = time.monotonic()

    def save(self, facts: FactsSoFar) -> None:
        """Keep what the run has come to, durably, here and in a store elsewhere. Called at checkpoints, evaluations and the end."""
        self.folder.write_json(FACTS, facts)
        if self._is_mirrored:
            push_history(self.folder.path, self.store)

    def save_facts(self, facts: FactsSoFar) -> None:
        """The same of the facts alone: here at every call, in a store elsewhere once in PUSH_S. Called often: a death loses little."""
        self.folder.write_json(FACTS, facts)
        if self._is_mirrored and time.monotonic() - self._pushed_at >= PUSH_S:
            self._pushed_at = time.monotonic()
            self.store.write(f"{MIRROR}/{FACTS}", msgspec.json.encode(facts))

    def take_back(self) -> None:
        """Undo a new run that was refused after all; one that goes on stays as it was."""
        if self.before is None:
            self.folder.remove()
            if self._is_mirrored:
                for entry in self.store.list(""):
                    if entry.name not in LOCK_FILES:
                        self.store.remove(entry.name)
        if self.before is not None or self._is_mirrored:
            self.release()

    def release(self) -> None:
        """The run is over for this process. A store that fails now takes nothing from what was done: the lock falls silent in STALE_S."""
        try:
            self.lock.release()
        except StoreError as error:
            logger.warning("the run's lock could not be given back; others take it as silent after %.0f s: %s", STALE_S, error)


def decide(mode: Mode | None, config: Config, run_dir: Path | None, *, say: Callable[[str], None] = logger.warning) -> Start | Resume | Finished:
    """What `firesteel run` does, before anything is touched. Raises UserError, one sentence, where it is refused.

    say: hears why the decision takes a while.
    """
    if mode is None:
        return Start(run_dir=run_dir or default_path(config.run.name))
    path = _run_dir(mode, config, run_dir)
    if path is None:
        return Start(run_dir=default_path(config.run.name))
    decided = _decided(mode, config, path)
    store = open_run_store(config, path)
    if isinstance(decided, Finished) or not (reading := _read_lock(store)).lock:
        return decided
    if reading.state is LockState.ALIVE and mode == "must":
        raise UserError(f"{_where(config, path)}: the run is going: {reading.sentence}; `firesteel stop` ends it")
    if reading.state is LockState.ALIVE:
        silent = _wait_for_owner(store, reading, where=_where(config, path), say=say)
        decided = _decided(mode, config, path)  # the owner may have finished meanwhile, or have begun
        return decided if isinstance(decided, Finished) else msgspec.structs.replace(decided, silent=silent)
    return decided


def open_run(decided: Start | Resume, config: Config) -> OpenRun:
    """Own the run and make its folder ready: the first thing that is written. Raises UserError where somebody else was faster.

    Whatever it raises, the run is nobody's again.
    """
    path, is_mirrored = decided.run_dir, bool(config.run.store)
    store = open_run_store(config, path)
    if isinstance(decided, Resume):
        lock = RunLock.acquire(store, silent=decided.silent)
        with _given_back(lock):
            return _reopen(decided, config, store, lock)
    if not is_mirrored:
        with _removed(RunFolder.create(path, config)) as folder:
            return OpenRun(folder, store, RunLock.acquire(store), before=None, is_mirrored=False)
    check_can_create(path, config)
    lock = RunLock.acquire(store, silent=decided.silent)
    with _given_back(lock), _removed(RunFolder.create(path, config)) as folder:
        push_history(path, store)
        return OpenRun(folder, store, lock, before=None, is_mirrored=True)


@contextlib.contextmanager
def _given_back(lock: RunLock) -> Iterator[None]:
    """The lock is ours no more where this ends in an error."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(FiresteelError):  # it falls silent, and the error in hand says more
            lock.release()
        raise


@contextlib.contextmanager
def _removed(folder: RunFolder) -> Iterator[RunFolder]:
    """A new folder goes where this ends in an error."""
    try:
        yield folder
    except BaseException:
        folder.remove()
        raise


def _reopen(decided: Resume, config: Config, store: Store, lock: RunLock) -> OpenRun:
    path, is_mirrored = decided.run_dir, bool(config.run.store)
    if isinstance(store, FolderStore):
        store.sweep(older_s=0.0)
    ours = _last_word_here(path)
    try:
        if is_mirrored:
            pull_history(store, path)
        folder = RunFolder.reopen(path, config)
    except OSError as error:
        raise UserError(f"the run folder {path} cannot be made: {error.strerror}; choose another --run-dir") from error
    facts = decode_facts(_history(store, FACTS, config), where=_where(config, path))  # the owner before us may have had a last word
    if ours is not None and ours.resumes == facts.resumes and ours.total_seconds > facts.total_seconds:  # it was here, and died before it was pushed
        facts = msgspec.structs.replace(facts, costs=ours.costs, usage=ours.usage, total_seconds=ours.total_seconds)
    run = OpenRun(folder, store, lock, before=facts, is_mirrored=is_mirrored)
    run.folder.event("resumed", resumes=facts.resumes + 1, changed=list(decided.changed))
    run.save(msgspec.structs.replace(facts, stopped=None, num_steps=config.run.num_steps, resumes=facts.resumes + 1))
    return run


def _last_word_here(path: Path) -> FactsSoFar | None:
    """facts.json of this host's run folder, where there is one that can be read."""
    try:
        return msgspec.json.decode((path / FACTS).read_bytes(), type=FactsSoFar)
    except (OSError, msgspec.DecodeError):
        return None


def differences(before: Config, now: Config) -> dict[str, str]:
    """Key → "was A, is B" of every key that differs; where the store lies is no difference."""
    old, new = (dict(_leaves(msgspec.to_builtins(config))) for config in (before, now))
    return {key: f"was {_shown(old.get(key))}, is {_shown(new.get(key))}" for key in old | new if old.get(key) != new.get(key) and key != "run.store"}


def refused(before: Config, now: Config) -> dict[str, str]:
    """Those of `differences` with which the run cannot go on."""
    found = differences(before, now)
    is_allowed = {key: any(fnmatch.fnmatchcase(key, pattern) for pattern in MAY_CHANGE) for key in found}
    is_allowed |= {key: False for key in found if now.run.deterministic and key in BITS}
    if "run.num_steps" in found and now.run.num_steps > before.run.num_steps:
        is_allowed["run.num_steps"] = now.optimizer.schedule == "constant"
        found["run.num_steps"] += ' (it may be raised with optimizer.schedule = "constant" alone)'
    return {key: change for key, change in found.items() if not is_allowed[key]}


def _run_dir(mode: Mode, config: Config, run_dir: Path | None) -> Path | None:
    """The folder of the run that is meant; None where there is none yet."""
    if run_dir is not None or config.run.store:
        return run_dir or default_path(config.run.name)
    if mode == "must":
        raise UserError("--resume must needs --run-dir, the folder of the run that is to go on, or run.store in the run file")
    return next(_unfinished(config.run.name), None)


def _unfinished(name: str) -> Iterator[Path]:
    """Folders runs/NAME-TIME of unfinished runs of that name, the newest first."""
    example = default_path(name)
    stem = example.name[: -len("YYYYMMDD-HHMMSS")]
    for path in sorted(example.parent.glob(f"{stem}*"), reverse=True):
        try:
            facts = decode_facts((path / FACTS).read_bytes(), where=str(path))
        except (OSError, UserError):
            continue  # no run folder, or one of another format
        if re.fullmatch(r"\d{8}-\d{6}", path.name.removeprefix(stem)) and facts.stopped != FINISHED:
            yield path


def _holds_run(mode: Mode, config: Config, path: Path) -> bool:
    """Whether there is a run to judge. Raises UserError where there has to be one, or something else is in its place."""
    if config.run.store:
        if path.exists() and (facts := RunFolder.open(path).facts()) is not None and facts.name != config.run.name:
            raise UserError(f"{path} is the folder of the run {facts.name}, not of {config.run.name}; choose another --run-dir")
        is_there = _history(open_run_store(config, path), FACTS, config) is not None
    else:
        is_there = path.exists()
        if is_there:
            RunFolder.open(path)
    if not is_there and mode == "must":
        missing = f"run.store: {store_root(config, path)} holds no run" if config.run.store else f"there is no run folder {path}"
        raise UserError(f"--resume must: {missing}; start it without --resume, or with --resume auto")
    return is_there


def _decided(mode: Mode, config: Config, path: Path) -> Start | Resume | Finished:
    """What may be done with what lies there, whoever owns it."""
    return _judge(mode, config, path) if _holds_run(mode, config, path) else Start(run_dir=path)


def _judge(mode: Mode, config: Config, path: Path) -> Resume | Finished:
    """What may be done with a run that is there."""
    store, where = open_run_store(config, path), _where(config, path)
    facts = decode_facts(_history(store, FACTS, config), where=where)
    before = _config_before(_history(store, CONFIG, config) or b"", path, where=where)
    if faults := refused(before, config):
        listed = "; ".join(f"{key} {change}" for key, change in list(faults.items())[:SHOWN])
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(
            f"{where}: this run has another configuration: {listed}{more}; "
            "only where and how fast it runs may change, and run.num_steps may grow: give the same values, or start a new run"
        )
    if not config.run.store and before.run.store:
        raise UserError(f"{where}: this run keeps its checkpoints in run.store = {before.run.store}, which the run file does not name any more")
    if facts.stopped == FINISHED and config.run.num_steps <= facts.num_steps:
        sentence = f"{where}: the run is finished, after {facts.steps} steps"
        if mode == "auto":
            return Finished(run_dir=path, sentence=sentence)
        raise UserError(f'--resume must: {sentence}; with optimizer.schedule = "constant" a larger run.num_steps goes on with it')
    _require_readable(store, config, path)
    return Resume(run_dir=path, facts=facts, changed=tuple(differences(before, config)))


def _require_readable(store: Store, config: Config, path: Path) -> None:
    """Raise UserError where another version wrote the run's journal or its newest checkpoint."""
    try:
        journal_reading.require_readable(ObjectFiles(open_root(f"{store_root(config, path).rstrip('/')}/journal")))
        checkpoint_files.require_readable(store)
    except StoreError as error:
        raise UserError(f"the run's store cannot be read: {error}") from error
    except UserError as error:
        raise UserError(f"{_where(config, path)}: {error}") from error


def _wait_for_owner(store: Store, reading: LockReading, *, where: str, say: Callable[[str], None]) -> str:
    """Wait until the owner is gone, by its own clock or by ours: one that does not beat for STALE_S while we look is silent, whatever its clock says.
    Returns its token, empty where it gave the lock back. Raises UserError where it still beats at the end of its wait."""
    assert reading.lock is not None
    wait_s = WAIT_S if is_here(reading.lock.owner) else WAIT_ELSEWHERE_S
    say(f"{where}: the lock is held by {reading.sentence}; waiting up to {wait_s:.0f} s for it to fall silent")
    began = beaten = time.monotonic()
    while reading.state is LockState.ALIVE and time.monotonic() - beaten < STALE_S:
        if time.monotonic() - began >= wait_s:
            raise UserError(f"{where}: the run is going: {reading.sentence}; `firesteel stop` ends it")
        time.sleep(LOOK_S)
        last, reading = reading, _read_lock(store)
        if reading.lock != last.lock:
            beaten = time.monotonic()
    say(f"{where}: {'the lock was given back' if reading.lock is None else 'its owner is silent; the run is taken over'}")
    return reading.lock.owner.token if reading.lock is not None else ""


def _config_before(data: bytes, path: Path, *, where: str) -> Config:
    try:
        return parse_config(data.decode(), folder=path)
    except (ConfigError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: the configuration of the run there cannot be read: {error}") from error


def _history(store: Store, name: str, config: Config) -> bytes | None:
    try:
        return read_history(store, name, is_mirrored=bool(config.run.store))
    except StoreError as error:
        raise UserError(f"the run's store cannot be read: {error}") from error


def _read_lock(store: Store) -> LockReading:
    try:
        return read_lock(store)
    except StoreError as error:
        raise UserError(f"the run's store cannot be read: {error}") from error


def _where(config: Config, path: Path) -> str:
    return store_root(config, path) if config.run.store else str(path)


def _leaves(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each key of a run file with its value: two levels, TABLE.KEY."""
    for table, keys in value.items():
        yield from ((f"{table}.{key}", item) for key, item in keys.items())


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
