#!/usr/bin/env bash
# Install Airflow as locked in requirements.txt into .data/airflow, with the uv of `make setup`.
set -euo pipefail
cd "$(dirname "$0")/../.."
uv=$(command -v uv || echo .data/uv/bin/uv)
export UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1
[ -d .data/airflow/bin ] || "$uv" venv --quiet --python .venv/bin/python .data/airflow
"$uv" pip sync --quiet --require-hashes --python .data/airflow/bin/python orchestrate/airflow/requirements.txt
