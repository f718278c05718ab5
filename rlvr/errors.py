"""The errors of the system, one class per boundary.

Owns the tree that `main` turns into an exit code: a `UserError` is one clear sentence and exit code 2, everything else is ours and exits 1.
Called by every package; knows nobody.
"""


class FiresteelError(Exception):
    """Anything that this project raises on purpose."""


class UserError(FiresteelError):
    """Bad input: the message says what was given and what would do. Exit code 2, nothing half-written.

    The message is one printable line, whatever names and values of the user's it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(char if char.isprintable() else repr(char)[1:-1] for char in message))


class ConfigError(UserError):
    """A run file, an override or a combination of settings that cannot work."""


class ProblemError(UserError):
    """A problem file that is empty or malformed; the message names file and line."""


class WireError(FiresteelError):
    """A frame that is cut, corrupt, oversized or of an unknown version."""


class StoreError(FiresteelError):
    """The store cannot be read or written: a full disk, a lost mount, an object store that refuses."""


class LockLost(FiresteelError):  # noqa: N818 - what happened, not what is wrong
    """Another process owns the run now, or may: this controller stops at once and writes nothing more."""


class QueueError(FiresteelError):
    """The rollout queue's contract was broken, or its producers are gone."""


class Closed(FiresteelError):  # noqa: N818 - the contract's own word: closing raises `Closed` at waiters
    """The queue was closed; whoever waits on it stops."""


class EngineError(FiresteelError):
    """The inference engine failed to start, to sample or to take weights."""


class SandboxError(FiresteelError):
    """The verifier's sandbox is broken; never a verdict about the model."""


class BroadcastError(FiresteelError):
    """A weight broadcast missed its deadline, lost a peer, or arrived with another digest."""


class OvertakenError(BroadcastError):
    """A staged version was replaced by a newer one before it was applied: look again for what is staged."""


class LearnerError(FiresteelError):
    """A training step that cannot be trusted: a loss or gradient that is not finite, a batch that does not fit its plan."""


class ActorError(FiresteelError):
    """An actor of the run failed for good; the message names it."""
