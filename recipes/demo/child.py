"""A run as a child process: started, waited for, and ended the way it is made to end.

Owns the child's environment and its signals. Called by `recipes.demo`.
"""

import os
import signal
import subprocess

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""What a run gets where the user's own environment says nothing else."""


def call(command: list[str]) -> int:
    """Run a command to its end and return its exit code; signals go to it alone, so that it ends as it is made to."""
    environment = ENVIRONMENT | os.environ
    child = subprocess.Popen(command, process_group=0, stdin=subprocess.DEVNULL, env=environment)
    before = {number: signal.signal(number, lambda received, _: child.send_signal(received)) for number in FORWARDED}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
