#!/usr/bin/env bash
# bash launch/image.sh PREFIX: install the trainer and its commands for a container image, into PREFIX (a new folder).
# What launch/Dockerfile and launch/apptainer.def run; pinned wheels, with the face detector, without this checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

prefix=${1:?a folder to install into}
python3 -m venv "$prefix"
"$prefix/bin/pip" install --quiet --requirement requirements.txt
"$prefix/bin/pip" install --quiet --no-deps --requirement requirements-detect.txt .
"$prefix/bin/fr-train" --help >/dev/null
