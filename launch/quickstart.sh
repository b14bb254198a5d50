#!/usr/bin/env bash
# bash launch/quickstart.sh: environment, sample data, training, score and report, all in quickstart/.
# Trains on all GPUs, or in two CPU processes if there is none. If it is interrupted, run it again to continue.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

say "environment"
bash init_venv.sh
python=venv/bin/python

say "sample data"
"$python" tools/make_sample_data.py quickstart/data

gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())')
processes=$((gpus > 0 ? gpus : 2))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # torchrun's own default, said here to spare its warning

say "training on $processes $([ "$gpus" -gt 0 ] && echo 'GPUs' || echo 'CPU processes')"
batch=$((64 / processes * processes)) # the recipe's 64, or the next that divides by the processes
"$python" -m torch.distributed.run --standalone --nproc_per_node "$processes" train.py @configs/quickstart.yml \
    --train_batch_size "$batch" --snap_to_resume auto

say "score"
snapshot=$(printf '%s\n' quickstart/snapshots/quickstart_*.pt | sort --version-sort | tail -n 1)
"$python" evaluate_lfw.py --snap "$snapshot" --json quickstart/figures.json --report quickstart/report

say "done"
echo "look at quickstart/report/index.html, and at the curves: venv/bin/tensorboard --logdir quickstart/logs"
