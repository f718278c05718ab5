"""Laws of a Ray that a run starts for itself: nobody from outside reaches it, and its token is this user's alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

LISTENING = """
import os, psutil, ray
from actors import cluster
from rlvr.config import Config
cluster.connect(Config(), namespace="loopback")
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
found = {one.laddr.ip for process in family for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
print("LISTENING", *sorted(found))
print("TOKEN", oct(cluster.TOKEN.stat().st_mode & 0o777))
ray.shutdown()
"""


def test_our_own_ray_listens_on_the_loopback_alone_and_its_token_is_private(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LISTENING], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("LISTENING", "TOKEN")))
    assert set(said["LISTENING"].split()) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert said["TOKEN"] == "0o600"
