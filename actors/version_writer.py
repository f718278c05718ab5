"""Which published versions enter the version log, and when: never in training's way.

Owns one thread that writes. The learner's broadcaster calls it with every version that was broadcast; the controller removes what is old.
"""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from safetensors import SafetensorError
from torch import Tensor

from learner import version_log
from rlvr.errors import StoreError
from rlvr.records import Version
from rlvr.store import Store

logger = logging.getLogger(__name__)


class VersionWriter:
    """The learner's end of the version log. Not thread-safe: the broadcaster's thread alone calls `log`."""

    def __init__(self, store: Store, *, every_steps: int, observe: Callable[[float], None]) -> None:
        """every_steps: 0 = only versions that are kept. observe: given the seconds of each entry."""
        self._store = store
        self._every_steps = every_steps
        self._observe = observe
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="version-log")
        self._under_way: Future[None] | None = None

    def log(self, version: Version, tensors: Mapping[str, Tensor], digest: str, keep: bool) -> None:
        """Write a version that is due. A kept one is in the log at return: its evaluation must not die with the generator that has it.

        Another one is written in the background, or left out while the one before it still is. A log that cannot be written costs late generators
        their head start, and no more: it is said aloud.
        """
        if not (keep or (self._every_steps and version.step % self._every_steps == 0)):
            return
        if keep:
            self.finish()
            self._write(version, tensors, digest, keep)
        elif self._under_way is None or self._under_way.done():
            self._under_way = self._thread.submit(self._write, version, tensors, digest, keep)
        else:
            logger.info("version=%s is not logged: the one before it is still being written", version)

    def finish(self) -> None:
        """Wait for the entry under way."""
        if self._under_way is not None:
            self._under_way.result()

    def close(self) -> None:
        """End the thread, without waiting for an entry under way."""
        self._thread.shutdown(wait=False)

    def _write(self, version: Version, tensors: Mapping[str, Tensor], digest: str, keep: bool) -> None:
        started = time.monotonic()
        try:
            version_log.write(self._store, version, tensors, digest, keep)
        except (OSError, StoreError, SafetensorError) as error:
            logger.warning("version=%s is not in the version log, free some disk: %s", version, error)
        else:
            self._observe(time.monotonic() - started)
