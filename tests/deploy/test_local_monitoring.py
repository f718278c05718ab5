"""`up.sh` starts a Prometheus that finds a live run through its folder or address, and refuses everything else with one sentence and exit 2."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_process import answers, free_port
from promql import ROOT, ask

from rlvr.metrics import Registry

LOCAL = ROOT / "deploy" / "monitoring" / "local"
UP = LOCAL / "up.sh"

needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)")


@contextlib.contextmanager
def controller() -> Iterator[str]:
    """The address of something that answers /sd as a run's controller does, with one process that serves metrics."""
    registry = Registry("queue", "queue")
    group = {"targets": [f"127.0.0.1:{registry.serve('127.0.0.1')}"], "labels": {"run": "demo", "role": "queue", "replica": "queue"}}

    class Sd(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps([group]).encode()
            self.send_response(200 if self.path == "/sd" else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Sd)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        registry.close()


def run_dir(folder: Path, service: str) -> Path:
    (folder / "run.json").write_text(json.dumps({"service": service, "pid": 1, "token": "secret"}))
    return folder


def refused(*arguments: str, **environment: str) -> str:
    done = subprocess.run(["bash", str(UP), *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@contextlib.contextmanager
def started(argument: str, folder: Path, *, script: Path = UP, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running up.sh with its temporary files in `folder`, and its Prometheus' address."""
    port = free_port()
    settings = {**os.environ, "PROMETHEUS_PORT": str(port), "TMPDIR": str(folder), **environment}
    with subprocess.Popen(
        ["bash", str(script), argument],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=settings,
        preexec_fn=as_from_a_terminal,
    ) as process:
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def as_from_a_terminal() -> None:
    """Tests that were started in the background ignore Ctrl-C, and a shell cannot trap what was ignored when it began."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.1)


@pytest.mark.processes
@needs_prometheus
def test_a_run_folder_is_enough_to_scrape_the_run_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "tmp").mkdir()
    grafana_port = str(free_port())
    with (
        controller() as service,
        started(str(run_dir(tmp_path / "run", service)), tmp_path / "tmp", GRAFANA_PORT=grafana_port) as (process, url),
    ):
        until(lambda: answers(f"{url}/-/ready"), "Prometheus is ready")
        until(lambda: ask(url, "query", query='up{run="demo", role="queue", replica="queue"} == 1')["result"], "the run's queue is scraped")
        until(lambda: ask(url, "query", query='rlvr_slots_limit{run="demo"}')["result"], "its metrics are there")
        assert {rule["name"] for group in ask(url, "rules")["groups"] for rule in group["rules"]} > {"LearnerStalled"}
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert said[0] == f"Prometheus: {url} scrapes the run at {service}\n"
    assert said[1].startswith(f"Grafana: http://127.0.0.1:{grafana_port}" if shutil.which("grafana") else "Grafana is not installed")
    assert not answers(f"{url}/-/ready")
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.processes
@needs_prometheus
def test_it_works_in_a_folder_of_any_name(tmp_path: Path) -> None:
    here = tmp_path / "R&D|it's, [mine]"
    shutil.copytree(UP.parent.parent, here, ignore=shutil.ignore_patterns("__pycache__"))
    with controller() as service, started(service, tmp_path, script=here / "local" / "up.sh") as (process, url):
        until(lambda: answers(f"{url}/-/ready"), "Prometheus is ready")
        assert {rule["name"] for group in ask(url, "rules")["groups"] for rule in group["rules"]} > {"LearnerStalled"}
        until(lambda: ask(url, "query", query='up{run="demo"} == 1')["result"], "the run is scraped")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.processes
@needs_prometheus
def test_grafana_is_started_where_it_is_installed_with_our_dashboard_and_data_source(tmp_path: Path) -> None:
    """With a program of that name which notes how it was called and answers its health check: Grafana itself is not needed."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "grafana").write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$*" > {tmp_path}/called\n'
        f"env > {tmp_path}/environment\n"
        f"mkdir -p {tmp_path}/served/api && touch {tmp_path}/served/api/health && cd {tmp_path}/served\n"
        'exec python3 -m http.server --bind 127.0.0.1 "$GF_SERVER_HTTP_PORT"\n'
    )
    (tmp_path / "bin" / "grafana").chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "GRAFANA_PORT": str(free_port())}
    with controller() as service, started(service, tmp_path, **environment) as (process, url):
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert said[1] == f"Grafana: http://127.0.0.1:{environment['GRAFANA_PORT']}/d/firesteel\n"
    assert (tmp_path / "called").read_text().startswith("server --homepath ")
    settings = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line)
    assert settings["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert settings["FIRESTEEL_PROMETHEUS"] == url
    provisioning = Path(settings["GF_PATHS_PROVISIONING"])
    source = yaml.safe_load((provisioning / "datasources" / "firesteel.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((provisioning / "dashboards" / "firesteel.yml").read_text())["providers"][0]
    assert (source["type"], source["url"]) == ("prometheus", "${FIRESTEEL_PROMETHEUS}")
    assert provider["options"]["path"] == "${FIRESTEEL_DASHBOARDS}"


def test_what_is_no_live_run_is_refused(tmp_path: Path) -> None:
    assert "usage: up.sh" in refused()
    assert "is no folder" in refused(str(tmp_path / "absent"))
    assert "is no live run: it has no run.json" in refused(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    assert "names no address" in refused(str(tmp_path))


@needs_prometheus
def test_a_run_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    assert f"no run answers at {dead}" in refused(str(run_dir(tmp_path, dead)))
    assert f"no run answers at {dead}" in refused(dead)


@needs_prometheus
def test_a_port_in_use_is_refused() -> None:
    with controller() as service, socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} is in use; set PROMETHEUS_PORT" in refused(service, PROMETHEUS_PORT=port)


def test_without_prometheus_it_says_how_to_get_it(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "python3"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    with controller() as service:
        assert "prometheus is not installed" in refused(service, PATH=str(tmp_path))


@pytest.mark.processes
def test_promtool_accepts_the_configuration() -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([tool, "check", "config", str(LOCAL / "prometheus.yml")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
