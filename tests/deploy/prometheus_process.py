"""A real Prometheus for a test: loopback, its own folder, gone at the end. Shared by the tests of this folder."""

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql import RULES


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether something answers there with 200."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def prometheus(folder: Path, discovery: dict[str, Any], *, scrape_interval: str = "1s") -> Iterator[str]:
    """The address of a Prometheus with our rules and the settings of local/prometheus.yml, but for the interval and how it finds targets.

    discovery: such as {"static_configs": [...]} or {"http_sd_configs": [...]}. Skips where Prometheus is not installed.
    """
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    settings = yaml.safe_load((RULES.parent / "local" / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": scrape_interval, "evaluation_interval": scrape_interval}
    settings["rule_files"] = [str(RULES)]
    (scraped,) = settings["scrape_configs"]
    del scraped["http_sd_configs"]
    scraped.update(discovery)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 30
            while not answers(f"http://{address}/-/ready"):
                assert process.poll() is None, (folder / "prometheus.log").read_text()[-2000:]
                assert time.monotonic() < deadline, "prometheus was not ready within 30 s"
                time.sleep(0.05)
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(20)
