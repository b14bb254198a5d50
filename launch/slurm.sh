#!/usr/bin/env bash
# sbatch --nodes 2 launch/slurm.sh @configs/mobilenet_arcface.yml [options]: train.py on all GPUs of the nodes.
#
# If a rank dies, all ranks are restarted from the newest snapshot, at most three times. Five minutes before the time
# limit Slurm sends SIGUSR1: the ranks write a snapshot, and the job is requeued to resume from it.
#
# With Pyxis (enroot), in a container instead of venv/; CONTAINER_IMAGE is a file or an enroot URI:
#
#   enroot import --output trainer.sqsh dockerd://face-recognition-trainer
#   CONTAINER_IMAGE=$PWD/trainer.sqsh CONTAINER_MOUNTS=/data:/data:ro sbatch --nodes 2 launch/slurm.sh @configs/…
#SBATCH --job-name=face-recognition
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

WARNED=138 # 128 + SIGUSR1: exit status of train.py after this signal

# Run by srun, once on each node.
train_on_this_node() {
    torchrun --nnodes "$SLURM_NNODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" --max-restarts 3 \
        --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$FIRST_NODE:29500" \
        train.py "$@" --snap_to_resume auto &
    local agent=$! warned=0 status ranks
    trap 'warned=1; ranks=$(cat /proc/"$agent"/task/*/children); kill -USR1 $ranks' USR1
    wait "$agent"
    status=$?
    if [ "$warned" = 1 ]; then
        # shellcheck disable=SC2086  # some process ids
        while kill -0 $ranks 2>/dev/null; do sleep 0.2; done
        kill -TERM "$agent" 2>/dev/null # or it would start them once more
        wait "$agent"
        status=$WARNED
    fi
    return "$status"
}

if [ -n "${SLURM_STEP_ID:-}" ]; then
    train_on_this_node "$@"
    exit
fi

cd "${SLURM_SUBMIT_DIR:?is set by sbatch}" || exit
container=()
if [ -n "${CONTAINER_IMAGE:-}" ]; then # of which the code of this folder takes torch and the other packages
    container=(--container-image "$CONTAINER_IMAGE" --container-workdir "$PWD" --no-container-mount-home
        --container-mounts "$PWD:$PWD${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}")
else
    . venv/bin/activate
fi
FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export FIRST_NODE
# Since Slurm 22.05 a step doesn't inherit the job's cores per task: all ranks of a node would share one.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
srun --kill-on-bad-exit "${container[@]}" bash launch/slurm.sh "$@"
status=$?
if [ "$status" = "$WARNED" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
