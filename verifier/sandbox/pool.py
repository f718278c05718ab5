"""Sandboxed workers behind one thread: every task gets an answer, whatever the workers do.

Owns the thread, which starts the zygote and lives as long as it, because the kernel ties the two. `submit` and `close` may be called from any
thread; all else happens in the pool's own (`crew`).
"""

import collections
import concurrent.futures
import logging
import os
import threading
from collections.abc import Sequence

from rlvr.errors import FiresteelError, SandboxError
from verifier.sandbox.crew import Counts, Crew, CrewSettings
from verifier.sandbox.tasks import Task

logger = logging.getLogger(__name__)


class Pool:
    """A running pool; `start` before the first `submit`, `close` at the end."""

    def __init__(self, settings: CrewSettings) -> None:
        self.counts = Counts()
        self._settings = settings
        self._crew: Crew | None = None
        self._inbox: collections.deque[Task] = collections.deque()
        self._is_closing = False
        self._is_over = False
        self._gate = threading.Lock()  # between those who submit and the end of the thread
        self._ready: concurrent.futures.Future[tuple[int, ...]] = concurrent.futures.Future()
        self._bell = -1
        self._thread = threading.Thread(target=self._run, name="verifier-sandbox", daemon=True)

    def start(self) -> tuple[int, ...]:
        """Wait for the first worker; returns its errnos by `lock.LAYERS`. Raises UserError or SandboxError when none can be had."""
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread.start()
        return self._ready.result()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks; each `task.settled` gets its result, or SandboxError when the pool ends first."""
        with self._gate:
            if self._is_over or self._thread.ident is None:
                raise SandboxError("the verifier's sandbox is closed" if self._is_over else "the verifier's sandbox is not started")
            self._inbox.extend(tasks)
            os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """End every process of the pool; tasks that wait get SandboxError."""
        with self._gate:
            self._is_closing = True
            if self._thread.ident is None:
                return
            if not self._is_over:
                os.eventfd_write(self._bell, 1)
        self._thread.join()

    @property
    def pids(self) -> tuple[int, ...]:
        """The workers that live now."""
        return () if self._crew is None else tuple(self._crew.children)

    @property
    def num_waiting(self) -> int:
        """Tasks that no worker has yet."""
        return len(self._inbox) + (0 if self._crew is None else self._crew.num_waiting)

    def _run(self) -> None:
        failure: Exception = SandboxError("the verifier's sandbox is closed")
        try:
            self._crew = Crew(self._settings, self._bell, self.counts)
            self._serve(self._crew)
        except FiresteelError as cause:
            failure = cause
        except Exception as cause:
            logger.exception("the verifier's sandbox broke")
            failure = SandboxError(f"the verifier's sandbox broke: {type(cause).__name__}: {cause}")
        self._end(failure)

    def _serve(self, crew: Crew) -> None:
        while not self._is_closing:
            if crew.work():
                os.eventfd_read(self._bell)
            while self._inbox:
                crew.add(self._inbox.popleft())
            if crew.errnos is not None and not self._ready.done():
                self._ready.set_result(crew.errnos)

    def _end(self, failure: Exception) -> None:
        with self._gate:
            self._is_over = True
        left = [*self._inbox, *(self._crew.end() if self._crew is not None else ())]
        os.close(self._bell)
        for task in left:
            task.settled.set_exception(failure)
        if not self._ready.done():
            self._ready.set_exception(failure)
