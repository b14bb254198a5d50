#!/usr/bin/env bash
# bash tests/run.sh [pytest arguments]: environment, lint, types, tests; stops at the first that fails.
# Warnings are errors by pyproject.toml, which also lists the exceptions (-W error here would undo them).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stage() {
    local start=$SECONDS
    echo "== $*"
    "$@"
    echo "== ok, $((SECONDS - start)) s"
}

stage bash init_venv.sh --with dev,detect
stage venv/bin/ruff check .
stage venv/bin/mypy
stage venv/bin/pytest "$@"
