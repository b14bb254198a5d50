#!/usr/bin/env bash
# bash tests/run.sh [--thorough] [pytest arguments]: environment, lint, types, tests; stops at the first that fails.
# --thorough: also the tests marked thorough, as CI does; without it about ten minutes on two cores.
# Warnings are errors by pyproject.toml, which also lists the exceptions (-W error here would undo them).
# Two files of tests run at a time: `-n 8` for eight, `-n 0` for one after the other in this process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stage() {
    local start=$SECONDS
    echo "== $*"
    "$@"
    echo "== ok, $((SECONDS - start)) s"
}

stage bash init_venv.sh --with dev,detect,remote
stage venv/bin/ruff check .
stage venv/bin/mypy
stage venv/bin/pytest --numprocesses 2 --dist loadfile "$@"
