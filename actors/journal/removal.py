"""Removing the segments that nobody needs any more, beside the writing: on an object store each is a request, and there may be thousands.

Owns the thread that does it. Called by the journal once the snapshot behind the segments is durable; knows nothing of what is in them.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from actors.journal.files import SegmentFiles
from rlvr.errors import FiresteelError

logger = logging.getLogger(__name__)

CLOSE_S = 10.0
"""A close waits so long; what is left is removed after the next commit of a resumed run."""


class Removal:
    """The oldest goes first, and nothing younger before it: a crash leaves no hole."""

    def __init__(self, files: SegmentFiles, *, is_kept: bool, removed: Callable[[int], None]) -> None:
        self._files, self._is_kept, self._removed = files, is_kept, removed
        self._asked: SimpleQueue[Sequence[int] | None] = SimpleQueue()
        self._is_over = threading.Event()
        self._gone = 0
        self._thread = threading.Thread(target=self._run, name="journal-removal", daemon=True)

    def begin(self, numbers: Sequence[int]) -> None:
        """Remove these in the thread."""
        if self._thread.ident is None:
            self._thread.start()
        self._asked.put(numbers)

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove these, up to the first that cannot be."""
        for number in [number for number in numbers if number > self._gone]:
            if self._is_over.is_set():
                return
            try:
                self._files.remove(number, is_kept=self._is_kept)
            except (OSError, FiresteelError) as error:
                logger.warning("journal segment=%08d is covered by checkpoints, but cannot be removed; tried again later: %s", number, error)
                return
            self._gone = number
            self._removed(number)

    def close(self) -> None:
        if self._thread.ident is not None:
            self._asked.put(None)
            self._thread.join(CLOSE_S)
            self._is_over.set()
            self._thread.join()

    def _run(self) -> None:
        while (numbers := self._asked.get()) is not None:
            self.remove(numbers)
