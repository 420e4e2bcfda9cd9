#!/usr/bin/env bash
# Install the locked environment into .venv; arguments are passed to `uv sync`.
# Needs only Python 3.11+: pip installs uv, and apt-get installs pip if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    say "Please install $3 as root (apt-get install $3), then run make again."
    exit 1
  fi
}

if command -v uv >/dev/null; then
  uv=uv
else
  uv=.data/uv/bin/uv
  if [ ! -x "$uv" ]; then
    command -v python3 >/dev/null || {
      say "Python 3.11 or newer is needed: apt-get install python3"
      exit 1
    }
    say "Installing uv, which installs the rest ..."
    mkdir -p .data
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
      root apt-get update -qq
      root apt-get install -y -qq python3-venv
    fi
    python3 -m venv .data/uv
    .data/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement orchestrate/uv.txt
  fi
fi

say "Installing the locked environment into .venv ..."
# Compiled bytecode cuts the start of each process to a third.
# Trust the system's certificates, since a company's proxy may have its own.
export UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1
# Debian's Python has priority: with pyenv's slower build, a run takes a sixth longer.
# UV_PYTHON or .python-version may name another.
PATH=/usr/bin:$PATH "$uv" sync --locked --inexact "$@" 2> >(grep -v '^ [-+~] ' >&2)
.venv/bin/python -m compileall -q api database notifications orchestrate runs extract load || true
