"""A look at what the receivers of one engine have staged, from another process of the same run.

Owns the agreement on the version that an engine applies next: a version is returned only after every receiver of the engine has said that it holds
it, and then it stays with each of them until it is taken or another one is asked for. Called by `actors.engine.engine`. Knows no Ray, no vLLM.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import msgspec
from torch import distributed

from learner.weight_group import connect, first_line
from learner.weight_protocol import DROP, HELD, HOLD, POLL_S, STAY, StagedVersion, alive_key, ask_key, held_key, staged_key
from rlvr.errors import BroadcastError
from rlvr.records import Version


class StagedWatch:
    """The one watch over the receivers `names`, which have come already, for as long as they stay and their sender lives. Thread-safe."""

    def __init__(self, address: tuple[str, int], names: Sequence[str], *, deadline_s: float = 60.0) -> None:
        self._store = connect(address, deadline_s)
        self._stays = {name: self._store.add(alive_key(name), 0) // STAY for name in names}
        self._next = dict.fromkeys(names, 0)
        self._reported: dict[StagedVersion, set[str]] = {}
        self._num_asked = 0
        self._asked: StagedVersion | None = None
        self._asked_number = 0
        self._answers: dict[str, bool] = {}
        self._turn = threading.Lock()
        self._unwanted: list[StagedVersion] = []
        self._search: Future[StagedVersion | None] | None = None

    def next(self, after: Version | None, *, wait_s: float) -> StagedVersion | None:
        """The oldest kept version after `after` (None: any) that all have, else the newest one, held by all; None where none is within `wait_s`.

        It never lasts longer, also where the link to the sender is cut: then there is nothing until it is back. Raises BroadcastError when the
        sender's store is gone.
        """
        with self._turn:
            if self._search is None:
                self._search = Future()
                threading.Thread(target=self._find, args=(self._search, after, wait_s), name="staged-watch", daemon=True).start()
            search = self._search
        try:
            found = search.result(wait_s + POLL_S)
        except TimeoutError:
            return None  # this search goes on, and the next call looks what it found
        except RuntimeError as error:
            self._forget(search)
            raise BroadcastError(f"the sender of weights is gone: {first_line(error)}") from error
        self._forget(search)
        return found if found is not None and (after is None or found.version > after) else None

    def discard(self, staged: StagedVersion) -> None:
        """Have every receiver do without a version that `next` returned and that is not going to be applied: kept, it would stay and take room."""
        with self._turn:
            self._unwanted.append(staged)

    def _forget(self, search: Future[StagedVersion | None]) -> None:
        with self._turn:
            if self._search is search:
                self._search = None

    def _find(self, search: Future[StagedVersion | None], after: Version | None, wait_s: float) -> None:
        ends_at = time.monotonic() + wait_s
        try:
            while (found := self._look_through_cuts(after)) is None and time.monotonic() < ends_at:
                time.sleep(POLL_S)
        except Exception as error:  # noqa: BLE001 - raised by the caller of `next`
            search.set_exception(error)
        else:
            search.set_result(found)

    def _look_through_cuts(self, after: Version | None) -> StagedVersion | None:
        try:
            return self._look(after)
        except distributed.DistStoreError:  # a wait that a cut link made too long; the next look tells what became of the sender
            return None

    def _look(self, after: Version | None) -> StagedVersion | None:
        """One look at the store, which waits for nothing: the version asked for last, once all hold it; else maybe a new question."""
        self._drop_the_unwanted()
        self._read_reports()
        if after is not None:
            self._reported = {staged: names for staged, names in self._reported.items() if staged.version > after}
        if self._asked is not None:
            asked = self._asked
            if not self._read_answers():
                return None
            self._asked = None
            if all(self._answers.values()) and asked in self._reported:
                return asked
            self._reported.pop(asked, None)  # somebody has it no more
        chosen = self._choose()
        if chosen is not None:
            self._asked, self._asked_number, self._answers = chosen, self._num_asked, {}
            self._ask(HOLD, chosen)
        return None

    def _choose(self) -> StagedVersion | None:
        whole = sorted((staged for staged, names in self._reported.items() if len(names) == len(self._next)), key=lambda staged: staged.version)
        kept = [staged for staged in whole if staged.keep]
        return next(iter(kept or whole[-1:]), None)

    def _ask(self, what: str, staged: StagedVersion) -> None:
        for name in self._next:
            self._store.set(ask_key(name, self._stays[name], self._num_asked), f"{what} {staged.version}")
        self._num_asked += 1

    def _drop_the_unwanted(self) -> None:
        with self._turn:
            unwanted, self._unwanted = self._unwanted, []
        for staged in unwanted:
            self._reported.pop(staged, None)
            self._ask(DROP, staged)

    def _read_answers(self) -> bool:
        """Whether all have answered the last question."""
        for name in self._next.keys() - self._answers.keys():
            if self._store.check([key := held_key(name, self._stays[name], self._asked_number)]):
                self._answers[name] = self._store.get(key).decode() == HELD
                self._store.delete_key(key)
        return len(self._answers) == len(self._next)

    def _read_reports(self) -> None:
        for name in self._next:
            while self._store.check([key := staged_key(name, self._stays[name], self._next[name])]):
                staged = msgspec.json.decode(self._store.get(key), type=StagedVersion)
                self._store.delete_key(key)
                self._next[name] += 1
                self._reported.setdefault(staged, set()).add(name)
