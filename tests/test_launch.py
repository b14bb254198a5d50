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


def slurm_in(folder: Path, **commands: str) -> dict[str, str]:
    """Environment of a job on one node that is submitted from a folder: scripts as commands, links to the checkout."""
    (folder / "bin").mkdir()
    for name, text in {"scontrol": SCONTROL, **commands}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    for name in ("launch", "train.py"):
        (folder / name).symlink_to(ROOT / name)
    slurm = {"SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "localhost"}
    slurm |= {"SLURM_CPUS_PER_TASK": "32", "SLURM_SUBMIT_DIR": str(folder), "SAID": str(folder / "said")}
    return os.environ | slurm | {"PYTHONPATH": str(ROOT), "PATH": f"{folder}/bin:{os.environ['PATH']}"}


@pytest.mark.parametrize("mounts", ["", "/data:/data:ro"])
def test_a_job_in_a_container_needs_no_environment_and_mounts_the_checkout(tmp_path: Path, mounts: str) -> None:
    """The options of Pyxis for srun, on a node where there is no venv/."""
    environment = slurm_in(tmp_path, srun='#!/bin/sh\nfor word; do echo "$word" >> "$SAID"; done\n')
    environment |= {"CONTAINER_IMAGE": "trainer.sqsh", "CONTAINER_MOUNTS": mounts}
    command = ["bash", str(ROOT / "launch/slurm.sh"), "@a recipe.yml", "--lr", "1"]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "said").read_text().splitlines() == [
        *("--kill-on-bad-exit", "--container-image", "trainer.sqsh", "--container-workdir", str(tmp_path)),
        *("--no-container-mount-home", "--container-mounts", f"{tmp_path}:{tmp_path}" + f",{mounts}" * bool(mounts)),
        *("bash", "launch/slurm.sh", "@a recipe.yml", "--lr", "1"),
    ]


@pytest.mark.thorough
def test_a_job_that_is_warned_writes_a_snapshot_and_is_queued_again(sample_data: Path, tmp_path: Path) -> None:
    torchrun = f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n'
    environment = slurm_in(tmp_path, srun=SRUN, torchrun=torchrun)
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/activate").touch()
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
    assert (tmp_path / "said").read_text() == "cores 32\nrequeue 77\n"
    assert snapshot.newest(tmp_path / "snapshots", "tiny")
