"""A cap on the tokens that one generator samples a second, on average.

Owns a bucket that fills at the capped rate. What is leased is charged by the mean length of what has finished, and settled when its length is known:
so the average holds, whatever the lengths. Called by the generator before it leases; knows no engine and waits for nothing itself.
"""

from collections.abc import Callable

BURST_S = 1.0
"""An idle generator saves up what it may sample in this time, no more."""


class Pace:
    """The bucket of one generator. tokens_per_s: None = no cap. first_guess: tokens of a completion before one has finished."""

    def __init__(self, tokens_per_s: float | None, *, first_guess: int, clock: Callable[[], float]) -> None:
        self._rate = tokens_per_s
        self._clock = clock
        self._first_guess = float(first_guess)
        self._num_finished = 0
        self._num_tokens = 0
        self._balance = 0.0
        self._filled_at = clock()

    @property
    def mean_tokens(self) -> float:
        """Of a completion, as far as is known."""
        return self._num_tokens / self._num_finished if self._num_finished else self._first_guess

    def wait_s(self) -> float:
        """Seconds until another completion may start; 0 = now."""
        if self._rate is None:
            return 0.0
        self._fill(self._rate)
        return max(0.0, -self._balance / self._rate)

    def affordable(self, wanted: int) -> int:
        """How many of `wanted` completions may start together: what `BURST_S` pays for, one at least."""
        if self._rate is None:
            return wanted
        return min(wanted, max(1, int(BURST_S * self._rate / max(self.mean_tokens, 1.0))))

    def charge(self, count: int) -> float:
        """`count` completions start; returns what each was charged, for `settle`."""
        self._balance -= count * self.mean_tokens
        return self.mean_tokens

    def settle(self, num_tokens: int, *, charged: float) -> None:
        """A completion that was charged that much has ended with `num_tokens` sampled here."""
        self._balance += charged - num_tokens
        self._num_finished += 1
        self._num_tokens += num_tokens

    def _fill(self, rate: float) -> None:
        now = self._clock()
        self._balance = min(self._balance + rate * (now - self._filled_at), BURST_S * rate)
        self._filled_at = now
