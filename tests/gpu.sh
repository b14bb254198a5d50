#!/usr/bin/env bash
# bash tests/gpu.sh [--device cuda|cpu] [--only NAME …] [OUT]: check and measure on this machine's GPU.
# PYTHON= names the interpreter (venv/bin/python); it needs no pytest. `--help` lists the options and the checks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-venv/bin/python}" -m tests.gpu "$@"
