"""What the journal costs and how fast it is read again.

Claims: acknowledged rollouts with fsync are no bottleneck, and a queue that died with 100,000 rollouts behind it is back within seconds.
`python -m benchmarks.journal` prints one JSON line and writes benchmarks/results/journal.json.
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

from actors.journal.files import FolderFiles
from actors.journal.journal import Journal
from actors.queue.opening import QueueSetup, build_queue, replay
from actors.queue.rollout_queue import RolloutQueue
from benchmarks.record import Claim, write
from benchmarks.rollout_queue import NUM_TOKENS, PIECE, rollouts_of, verdicts_of
from rlvr.config import Config, PromptsConfig, RolloutConfig, RunConfig
from rlvr.problems import Problem
from rlvr.records import Version

ROLLOUTS_PER_STEP = 1024
NUM_STEPS = 4
NUM_REPLAYED = 100 * 1024
REPEATS = 3
AIM_FSYNC = 2_000.0
AIM_REPLAY_S = 10.0


class Unobserved:
    """Counts nothing."""

    def committed(self, num_bytes: int, seconds: float) -> None:
        pass

    def failed(self) -> None:
        pass


def setup(num_steps: int) -> QueueSetup:
    config = Config(
        run=RunConfig(num_steps=num_steps),
        prompts=PromptsConfig(copies_per_step=ROLLOUTS_PER_STEP // 8),
        rollout=RolloutConfig(group_size=8, max_staleness=0),
    )
    return QueueSetup(config=config, problems=(Problem(id="p", prompt="1 + 1?", answer="2"),), prompt_ids={"p": tuple(range(100))})


def opened(folder: Path, *, num_steps: int, is_synced: bool) -> tuple[RolloutQueue, Journal]:
    journal = Journal(FolderFiles(folder, is_synced=is_synced), run="benchmark", observer=Unobserved())
    queue = build_queue(setup(num_steps), clock=time.monotonic, incarnation=journal.inspect(), record=journal.append)
    replay(journal, queue)
    return queue, journal


def run(queue: RolloutQueue, journal: Journal, *, num_steps: int) -> float:
    """Whole steps, each hand-in waited for by one caller; returns rollouts a second."""
    journal.open(lineage=queue.lineage)
    began = time.perf_counter()
    for step in range(1, num_steps + 1):
        while leases := queue.leases(PIECE, generator="g0", applied=Version(step=step - 1)):
            queue.put([rollout for lease in leases for rollout in rollouts_of(lease)])
            journal.flushed().result()
        while work := queue.lease_unverified(PIECE, verifier="v0"):
            queue.put_verdicts(verdicts_of(list(work)))
            journal.flushed().result()
        assert queue.next_batch(step) is not None
        journal.flushed().result()
    journal.close()
    return num_steps * ROLLOUTS_PER_STEP / (time.perf_counter() - began)


def replayed(folder: Path) -> tuple[float, int]:
    """Seconds until a queue with so many rollouts behind it is back, and the bytes that it read."""
    num_steps = NUM_REPLAYED // ROLLOUTS_PER_STEP
    run(*opened(folder, num_steps=num_steps, is_synced=False), num_steps=num_steps)
    began = time.perf_counter()
    queue, journal = opened(folder, num_steps=num_steps, is_synced=False)
    seconds = time.perf_counter() - began
    assert queue.counts().consumed == NUM_REPLAYED
    return seconds, journal.facts().num_bytes


def main() -> None:
    rates: dict[str, list[float]] = {"fsync": [], "write": []}
    for _ in range(REPEATS):  # interleaved, so that a busy moment hits both
        for mode, of_mode in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                of_mode.append(run(*opened(Path(folder), num_steps=NUM_STEPS, is_synced=mode == "fsync"), num_steps=NUM_STEPS))
    with tempfile.TemporaryDirectory() as folder:
        seconds, num_bytes = replayed(Path(folder))
    claims = [
        Claim(
            claim="one caller, each hand-in of 32 acknowledged after an fsync",
            measured=median(rates["fsync"]),
            aim=AIM_FSYNC,
            unit="rollouts/s",
        ),
        Claim(claim=f"a replay of {NUM_REPLAYED} rollouts and their verdicts", measured=seconds, aim=AIM_REPLAY_S, unit="s", at_most=True),
    ]
    details = {
        "rates": {mode: [round(rate, 1) for rate in of_mode] for mode, of_mode in rates.items()},
        "replayed_bytes": num_bytes,
        "tokens_per_rollout": NUM_TOKENS,
        "rollouts_per_hand_in": PIECE,
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    print(write("journal", claims, command="python -m benchmarks.journal", details=details))


if __name__ == "__main__":
    main()
