#!/usr/bin/env bash
# Writes the locks anew from pyproject.toml (`make lock`). Needs uv. No URL is written; hashes are for CPython 3.11 on Linux x86-64.
# torchvision, torchaudio and torchcodec are left out: the builds on PyPI want CUDA and break `import transformers` beside a CPU torch,
# and nothing here decodes pictures or sound. So the locks are installed with --no-deps.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    uv pip compile pyproject.toml "${@:2}" --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
        --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec -o "$1" >/dev/null
    sed -i '/^# The following packages were excluded/,$d' "$1"
    echo "$1: $(grep -cE '^[a-z0-9]' "$1") packages"
}
export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
compile requirements/cpu.lock --extra cpu --extra dev --extra build
compile requirements/verifier.lock --extra verifier --extra build
UV_FIND_LINKS='' compile requirements/gpu.lock --extra gpu --extra dev --extra build
