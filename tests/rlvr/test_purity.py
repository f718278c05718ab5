"""The vocabulary is pure and quick to import."""

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "rlvr"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
WITHOUT_METRICS = [name for name in MODULES if not name.startswith("metrics")]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_no_module_brings_a_heavy_package_along() -> None:
    code = f"import sys, importlib\nfor name in {MODULES}: importlib.import_module('rlvr.' + name)\n"
    heavy = "{'ray', 'torch', 'vllm', 'sympy', 'transformers', 'scipy', 'pandas'}"
    assert run(code + f"print({heavy} & set(sys.modules))") == "set()"


def test_only_metrics_need_the_prometheus_client() -> None:
    code = f"import sys, importlib\nfor name in {WITHOUT_METRICS}: importlib.import_module('rlvr.' + name)\n"
    assert run(code + "print('prometheus_client' in sys.modules)") == "False"


def test_the_whole_vocabulary_is_imported_in_a_moment() -> None:
    """CPU seconds, so that a busy machine does not count: 0.3 are promised without the prometheus client, numpy included."""
    code = f"import time, importlib\nstart = time.process_time()\nfor name in {WITHOUT_METRICS}: importlib.import_module('rlvr.' + name)\n"
    assert min(float(run(code + "print(time.process_time() - start)")) for _ in range(3)) < 0.3
