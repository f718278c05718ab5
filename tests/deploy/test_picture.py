"""The picture of the dashboard tells what Prometheus answers: units, words and legends as Grafana has them, and nothing left out unsaid."""

import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from promql import BOARD, ROOT, all_panels

from deploy.monitoring import picture, values

PANELS: dict[str, dict[str, Any]] = {panel["title"]: panel for panel in all_panels(json.loads(BOARD.read_text()))}
END = 1_790_000_000.0
NUMBER = 1234.0
"""What the server below answers to every query."""


@contextlib.contextmanager
def fake_prometheus(*, runs: tuple[str, ...] = ("a",), status: int = 200) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of something that answers every query with a series a run, and what it was asked."""
    asked: list[dict[str, str]] = []

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            asked.append({"path": path, **dict(urllib.parse.parse_qsl(query))})
            ats = [END - 60 * number for number in range(9, -1, -1)] if path.endswith("query_range") else [END]
            points = [[at, str(NUMBER)] for at in ats]
            key = {"values": points} if path.endswith("query_range") else {"value": points[-1]}
            labels = (
                [{"run": run, "le": le} for run in runs for le in ("1", "+Inf")]
                if "sum by (le)" in asked[-1]["query"]
                else [{"run": run} for run in runs]
            )
            body = json.dumps({"data": {"result": [{"metric": metric, **key} for metric in labels]}}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def words_drawn(url: str, *, rows: tuple[str, ...] = ("Now",)) -> list[str]:
    """Every text of the picture, legends too."""
    source = picture.Source(url, run="a", seconds=600, rate_interval="30s", end=END)
    figure = picture.draw(json.loads(BOARD.read_text()), source, rows=rows)
    texts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        legend = axes.get_legend()
        texts += [text.get_text() for text in (*axes.texts, *(legend.get_texts() if legend else ()))]
    picture.plt.close(figure)
    return texts


@pytest.mark.parametrize(
    "value, unit, decimals, words",
    [
        (1234, "short", None, "1.23 K"),
        (1234, "none", 0, "1234"),
        (0.125, "percentunit", 1, "12.5%"),
        (83.333, "currencyUSD", None, "$83.3"),
        (3 * 2**30, "bytes", None, "3 GiB"),
        (2**20, "Bps", None, "1 MiB/s"),
        (90, "s", None, "1.5 min"),
        (0.0025, "s", None, "2.5 ms"),
        (0.00001, "sci", None, "1e-05"),
        (700, "watt", None, "700 W"),
        (12, "suffix: /h", None, "12 /h"),
        (0, "short", None, "0"),
    ],
)
def test_a_value_reads_as_on_the_dashboard(value: float, unit: str, decimals: int | None, words: str) -> None:
    assert values.in_unit(value, unit, decimals) == words


def test_every_unit_of_the_dashboard_is_known_and_no_other() -> None:
    for panel in PANELS.values():
        assert values.in_unit(1.0, panel["fieldConfig"]["defaults"].get("unit", "short"))
    with pytest.raises(ValueError, match="'furlongs'"):
        values.in_unit(1.0, "furlongs")


def test_words_and_colours_are_those_of_mappings_and_thresholds() -> None:
    health = PANELS["Health"]["fieldConfig"]["defaults"]
    assert values.reading(0, health) == ("healthy", "green")
    assert values.reading(8, health) == ("not answering", "red")
    waits = PANELS["Learner waits"]["fieldConfig"]["defaults"]
    assert [values.reading(share, waits)[1] for share in (0.05, 0.1, 0.6)] == ["green", "orange", "red"]


def test_a_legend_puts_labels_in() -> None:
    assert values.legend_of("{{run}} {{ part }}", {"run": "a", "part": "queue"}) == "a queue"
    assert values.legend_of("__auto", {"b": "2", "__name__": "x", "a": "1"}) == "a=1, b=2"


@pytest.mark.processes
def test_every_panel_of_a_row_is_drawn_with_the_value_that_was_answered() -> None:
    with fake_prometheus() as (url, asked):
        said = words_drawn(url)
    titles = [panel["title"] for panel in json.loads(BOARD.read_text())["panels"] if panel["type"] != "row"]
    now = titles[: titles.index("Tokens a second, by generator")]
    assert set(now) <= set(said)
    assert "1.23 K /s" in said, "Rollouts a second"
    assert not [query["query"] for query in asked if "$" in query["query"]]
    assert {float(query["time"]) for query in asked if query["path"].endswith("/query")} == {END}


@pytest.mark.processes
def test_two_runs_are_two_numbers_with_their_names() -> None:
    with fake_prometheus(runs=("first", "second")) as (url, _):
        said = words_drawn(url)
    assert said.count("1.23 K /s") == 4, "Rollouts and Tokens a second, of each"
    assert {"first", "second"} <= set(said)


@pytest.mark.processes
def test_what_a_legend_has_no_room_for_is_counted() -> None:
    with fake_prometheus(runs=tuple("abcdefghi")) as (url, _):
        said = words_drawn(url, rows=("Generators",))
    assert "+3 more" in said


@pytest.mark.processes
def test_without_data_a_panel_says_so() -> None:
    with fake_prometheus(runs=()) as (url, _):
        said = words_drawn(url)
    assert {"no run", "no step yet", "no price"} <= set(said)


def drawn(url: str, out: Path, *, rows: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.monitoring.picture", "--prometheus", url, "--rows", rows, "--end", str(time.time()), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)


@pytest.mark.processes
def test_the_command_writes_a_png_or_says_in_one_line_why_not(tmp_path: Path) -> None:
    with fake_prometheus() as (url, _):
        assert drawn(url, tmp_path / "now.png", rows="Now").returncode == 0
        unknown = drawn(url, tmp_path / "none.png", rows="Nowhere")
    with fake_prometheus(status=422) as (url, _):
        refused = drawn(url, tmp_path / "none.png", rows="Now")
    assert (tmp_path / "now.png").read_bytes().startswith(b"\x89PNG")
    assert (unknown.returncode, refused.returncode) == (2, 2)
    assert "no row 'Nowhere'" in unknown.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "none.png").exists()
