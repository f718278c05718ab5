"""A look at what the receivers of one engine have staged, from another process of the same run.

Owns the agreement on the version that an engine applies next: a version is returned only after every receiver of the engine has said that it holds
it, and then it stays with each of them until it is taken or another one is asked for. Called by `actors.engine`. Knows no Ray, no vLLM.
"""

import threading
import time
from collections.abc import Sequence

import msgspec

from learner.weight_group import connect, first_line
from learner.weight_protocol import HELD, POLL_S, StagedVersion, held_key, hold_key, staged_key
from rlvr.errors import BroadcastError
from rlvr.records import Version


class StagedWatch:
    """The one watch over the receivers `names`. Thread-safe."""

    def __init__(self, address: tuple[str, int], names: Sequence[str], *, deadline_s: float = 60.0) -> None:
        self._store = connect(address, deadline_s)
        self._next = dict.fromkeys(names, 0)
        self._reported: dict[StagedVersion, set[str]] = {}
        self._num_holds = 0
        self._asked: StagedVersion | None = None
        self._answers: dict[str, bool] = {}
        self._turn = threading.Lock()

    def next(self, after: Version | None, *, wait_s: float) -> StagedVersion | None:
        """The oldest kept version after `after` (None: any) that all have, else the newest one, held by all; None where none is within `wait_s`.

        Raises BroadcastError when the sender's store is gone.
        """
        ends_at = time.monotonic() + wait_s
        while True:
            with self._turn:
                try:
                    held = self._look(after)
                except RuntimeError as error:
                    raise BroadcastError(f"the sender of weights is gone: {first_line(error)}") from error
            if held or time.monotonic() >= ends_at:
                return held
            time.sleep(POLL_S)

    def _look(self, after: Version | None) -> StagedVersion | None:
        """One look at the store, which waits for nothing: the version asked for last, once all hold it; else maybe a new question."""
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
            self._ask(chosen)
        return None

    def _choose(self) -> StagedVersion | None:
        whole = sorted((staged for staged, names in self._reported.items() if len(names) == len(self._next)), key=lambda staged: staged.version)
        kept = [staged for staged in whole if staged.keep]
        return next(iter(kept or whole[-1:]), None)

    def _ask(self, chosen: StagedVersion) -> None:
        for name in self._next:
            self._store.set(hold_key(name, self._num_holds), str(chosen.version))
        self._num_holds += 1
        self._asked = chosen
        self._answers = {}

    def _read_answers(self) -> bool:
        """Whether all have answered the last question."""
        for name in self._next.keys() - self._answers.keys():
            if self._store.check([key := held_key(name, self._num_holds - 1)]):
                self._answers[name] = self._store.get(key).decode() == HELD
                self._store.delete_key(key)
        return len(self._answers) == len(self._next)

    def _read_reports(self) -> None:
        for name in self._next:
            while self._store.check([key := staged_key(name, self._next[name])]):
                staged = msgspec.json.decode(self._store.get(key), type=StagedVersion)
                self._store.delete_key(key)
                self._next[name] += 1
                self._reported.setdefault(staged, set()).add(name)
