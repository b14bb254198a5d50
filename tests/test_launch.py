"""launch/slurm.sh with mocked Slurm commands: what it starts, and that a warned job is queued again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fr.checkpoint import snapshot
from tests.conftest import ROOT, TINY, data_options, folders

# One node; without --kill-on-bad-exit.
SRUN = '#!/bin/sh\nshift\necho "cores $SRUN_CPUS_PER_TASK" >> "$SAID"\nSLURM_STEP_ID=0 exec "$@"\n'
SCONTROL = '#!/bin/sh\ncase "$1" in show) echo localhost;; *) echo "$@" >> "$SAID";; esac\n'


@pytest.mark.thorough
def test_a_job_that_is_warned_writes_a_snapshot_and_is_queued_again(sample_data: Path, tmp_path: Path) -> None:
    commands, said = tmp_path / "bin", tmp_path / "said"
    commands.mkdir()
    torchrun = f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n'
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("torchrun", torchrun)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/activate").touch()
    for name in ("launch", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    slurm = {"SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "localhost"}
    slurm["SLURM_CPUS_PER_TASK"] = "32"
    environment = os.environ | slurm | {"SLURM_SUBMIT_DIR": str(tmp_path), "SAID": str(said), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{commands}:{environment['PATH']}"
    options = [*data_options(sample_data), *TINY, *folders(tmp_path), "--epoch_total_num", "9999"]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            ["bash", "launch/slurm.sh", *options], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "logs/log.jsonl").exists():
            assert time.monotonic() < end and job.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        (step,) = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(step), signal.SIGUSR1)
        assert job.wait(120) == 138
    finally:
        job.kill()
    assert said.read_text() == "cores 32\nrequeue 77\n"
    assert snapshot.newest(tmp_path / "snapshots", "tiny")
