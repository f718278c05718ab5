"""What a change of the broadcast group costs: seconds to form one, until a joiner has the newest version, and for the living to go on after a death.

`python -m benchmarks.broadcast_membership --deadline 5` prints one JSON line. Receivers are processes on this machine, over gloo; one of them is
killed or stopped while a broadcast is stuck at it. Nothing here needs or measures a GPU.
"""

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch

from learner.broadcaster import Broadcaster, Membership
from learner.weight_receiver import WeightReceiver
from learner.weights import BroadcastReport, WeightSender
from rlvr.records import Version

processes = multiprocessing.get_context("forkserver")
CHUNK_BYTES = 8 * 2**20


def receive(address: tuple[str, int], name: str, pipe: Connection) -> None:
    receiver = WeightReceiver(address, name)
    pipe.send(None)
    pipe.recv()
    receiver.close()


@contextmanager
def receiving(address: tuple[str, int], name: str) -> Iterator[BaseProcess]:
    ours, theirs = processes.Pipe()
    process = processes.Process(target=receive, args=(address, name, theirs))
    process.start()
    ours.recv()
    try:
        yield process
    finally:
        process.kill()
        process.join()


class Bench:
    """A sender with its broadcaster, and what they said."""

    def __init__(self, deadline_s: float, num_bytes: int) -> None:
        self.sender = WeightSender("127.0.0.1", deadline_s=deadline_s, chunk_bytes=CHUNK_BYTES)
        self.reports: list[BroadcastReport] = []
        self.memberships: list[Membership] = []
        self.broadcaster = Broadcaster(self.sender, announce=self.reports.append, changed=self.memberships.append)
        self._tensors = {"weight": torch.randn(num_bytes // 2).bfloat16()}
        self._step = 0

    def gather(self, *names: str) -> None:
        self.broadcaster.set_members(names)
        wait_until(lambda: bool(self.memberships) and set(self.memberships[-1].members) == set(names))

    def publish(self) -> None:
        self._step += 1
        self.broadcaster.publish(Version(step=self._step), self._tensors, keep=False)

    def seconds_to_join(self, living: tuple[str, ...], joiner: str) -> float:
        """From the wish to the newest version in the joiner, which lives already."""
        num_reports = len(self.reports)
        started = time.monotonic()
        self.gather(*living, joiner)
        wait_until(lambda: len(self.reports) > num_reports)
        return time.monotonic() - started

    def seconds_to_go_on(self, victim: BaseProcess, death: signal.Signals) -> float:
        """From the death of a member in mid-broadcast until all others have proved the version."""
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGSTOP)  # the broadcast gets stuck at it
        self.publish()
        time.sleep(0.5)
        os.kill(victim.pid, death)
        started = time.monotonic()
        self.broadcaster.finish()
        return time.monotonic() - started


def wait_until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.005)


def measure(deadline_s: float, num_bytes: int, rounds: int) -> dict[str, object]:
    bench = Bench(deadline_s, num_bytes)
    address = bench.sender.address
    seconds: dict[str, list[float]] = {"join": [], "after_sigkill": [], "after_sigstop": []}
    living = ("a.0", "b.0")
    with receiving(address, "a.0"), receiving(address, "b.0"):
        bench.gather(*living)
        bench.publish()
        bench.broadcaster.finish()
        for number in range(rounds):
            for death in (signal.SIGKILL, signal.SIGSTOP):
                name = f"{death.name}-{number}.0"
                with receiving(address, name) as victim:
                    seconds["join"].append(bench.seconds_to_join(living, name))
                    seconds[f"after_{death.name.lower()}"].append(bench.seconds_to_go_on(victim, death))
        bench.broadcaster.close()
    seconds["form"] = [membership.seconds for membership in bench.memberships if membership.members]
    seconds["broadcast"] = [report.seconds for report in bench.reports]
    summary = {name: {"p50": round(statistics.median(values), 3), "max": round(max(values), 3)} for name, values in seconds.items()}
    return {"deadline_s": deadline_s, "version_mb": num_bytes / 1e6, "receivers": len(living) + 1, "rounds": rounds, "seconds": summary}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deadline", type=float, default=5.0, help="weights.deadline_s")
    parser.add_argument("--megabytes", type=float, default=134.0, help="size of a version")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.deadline, int(arguments.megabytes * 1e6), arguments.rounds)))


if __name__ == "__main__":
    main()
