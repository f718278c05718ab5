"""Law of the verifier's image: without torch, transformers and vLLM `firesteel verify` judges, and the verifier and queue actors import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ABSENT = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'vllm', 'tokenizers', 'safetensors', 'accelerate')))\n"


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", ABSENT + code], capture_output=True, text=True, check=False)


def test_verify_needs_no_torch(tmp_path: Path) -> None:
    rows = [{"id": "a", "response": "\\boxed{12.8}", "gold": "64/5"}, {"id": "b", "response": "\\boxed{12.7}", "gold": "64/5"}]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["firesteel", "verify", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    ended = run(f"sys.argv = {words!r}\nfrom actors.cli import main\nmain()")
    assert ended.returncode == 0, ended.stderr
    verdicts = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(verdict["id"], verdict["kind"], verdict["reward"]) for verdict in verdicts] == [("a", "correct", 1.0), ("b", "wrong", 0.0)]


def test_the_verifier_and_queue_actors_import_without_torch() -> None:
    ended = run("import actors.verifier_actor, actors.queue.actor; print('imported')")
    assert ended.stdout == "imported\n", ended.stderr


def test_looking_at_a_run_needs_no_torch() -> None:
    ended = run("import actors.commands.look, actors.commands.plan; print('imported')")
    assert ended.stdout == "imported\n", ended.stderr
