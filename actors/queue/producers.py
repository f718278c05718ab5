"""Who feeds the queue: generators and verifiers, announced, heard of, or gone.

Owns the heartbeats; each call of a worker is one. Called by the queue's service; knows no rollouts. Our clock decides, not Ray's.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.queue.records import Producer
from rlvr.errors import Closed

GENERATOR = "generator"
VERIFIER = "verifier"


@dataclass
class _Known:
    role: str
    since: float
    is_expected: bool


class Producers:
    """The workers that may still bring something. One that is announced counts as alive until its start has taken too long."""

    def __init__(self, *, silence_s: float, start_s: float, clock: Callable[[], float]) -> None:
        self._silence_s = silence_s
        self._start_s = start_s
        self._clock = clock
        self._began = clock()
        self._known: dict[str, _Known] = {}
        self._alive_at: dict[str, float] = {}
        """By role: when somebody of it was last known to be alive, or to come."""
        self._retired: set[str] = set()
        self._losses: Counter[str] = Counter()

    def expect(self, name: str, role: str) -> None:
        """A worker is being started."""
        self._retired.discard(name)
        self._alive_at[role] = self._clock()
        self._known[name] = _Known(role, self._clock(), is_expected=True)

    def heard(self, name: str, role: str) -> None:
        """A worker called. Raises Closed for one that was replaced: nobody counts on it any more."""
        if name in self._retired:
            raise Closed(f"worker {name} was given up and replaced: it may end")
        self._alive_at[role] = self._clock()
        self._known[name] = _Known(role, self._clock(), is_expected=False)

    def gone(self, name: str) -> None:
        """A worker is known to be dead, or has left."""
        known = self._known.pop(name, None)
        if known is not None:
            self._alive_at[known.role] = max(self._alive_at[known.role], self._clock())
        self._losses[name] += 1

    def retire(self, name: str) -> None:
        """A worker is replaced for good: should it live, as behind a cut link, it is refused from now on."""
        self._retired.add(name)

    def losses(self, name: str) -> int:
        """How often a worker of this name was gone: what tells a call of a dead one from a call of its successor."""
        return self._losses[name]

    def silent(self) -> Sequence[str]:
        """Workers that were not heard of for too long."""
        now = self._clock()
        return [name for name, known in self._known.items() if now - known.since > (self._start_s if known.is_expected else self._silence_s)]

    def has(self, role: str) -> bool:
        """Whether a worker of this role is alive, or one may still come: before the first was ever announced the start counts as that, and after
        the last one has gone the time in which it would have been missed: who replaces it announces the next one."""
        if role not in self._alive_at:
            return self._clock() - self._began <= self._start_s
        silent = set(self.silent())
        is_there = any(known.role == role and name not in silent for name, known in self._known.items())
        return is_there or self._clock() - self._alive_at[role] <= self._silence_s

    def all(self) -> tuple[Producer, ...]:
        now = self._clock()
        known = sorted(self._known.items())
        return tuple(Producer(name=name, role=k.role, silent_s=now - k.since, is_expected=k.is_expected) for name, k in known)
