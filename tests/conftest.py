"""Shared fixtures: sample data made once, real faces where they are at hand, functions run on several gloo ranks."""

import functools
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import matplotlib
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import train
from fr.checkpoint import snapshot
from fr.data.faces import LabelledFaces
from fr.data.readers.vgg import read_vgg
from fr.files.data_root import DataRoot
from fr.train.meters import Meters
from tests.builders.command_options import data_options as data_options
from tests.builders.command_options import validation_options as validation_options
from tools.make_sample_data import Options, make_sample_data

ROOT = Path(__file__).parent.parent
SAMPLE = Options(identities=12, images_per_identity=8, lfw_identities=40, pairs_per_fold=2)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the tests marked thorough, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests marked thorough, unless asked for with --thorough."""
    if config.option.thorough:
        return
    if thorough := [item for item in items if item.get_closest_marker("thorough")]:
        config.hook.pytest_deselected(items=thorough)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    # What the workers of `pytest -n` deselect isn't reported here.
    if not config.option.thorough and (config.option.numprocesses or terminalreporter.stats.get("deselected")):
        terminalreporter.write_line("tests marked thorough are left out; run them with --thorough")


# Variables by which a launcher or a scheduler (torchrun, Slurm) makes a process one rank of a job, or sets its threads.
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "SLURM_", "OMP_", "MKL_")


def pytest_configure(config: pytest.Config) -> None:
    """Reset what pytest inherited, and give each worker (`pytest -n`) cores of its own.

    The cores, because in each worker torch takes as many threads as there are. Property tests draw the same examples
    each time, unless with `--hypothesis-seed N`; those that don't say how many, such as the tests of damaged files,
    draw 100, thoroughly 500.
    """
    examples, repeat = 500 if config.option.thorough else 100, config.getoption("--hypothesis-seed") is None
    hypothesis.settings.register_profile("tier", max_examples=examples, derandomize=repeat)
    hypothesis.settings.load_profile("tier")
    reset_inherited()
    if (worker := getattr(config, "workerinput", None)) is not None:
        number = int(worker["workerid"].removeprefix("gw"))
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number :: worker["workercount"]] or cores)
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # torch counted when it was imported, also OMP_NUM_THREADS


def reset_inherited() -> None:
    """Signals and environment as in a login shell, for the tests and the commands that they start.

    In the background of a script (`pytest &`) SIGINT is ignored: a command that inherits this never sees Ctrl-C. SIGHUP
    stays as it is, since no test sends it, so that `nohup` still protects the tests.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCHLD):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        del os.environ[name]
    os.environ["LC_ALL"] = "C.UTF-8"  # messages of bash and the C library are compared


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of --data_cache auto in the tests and the commands that they start: never the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # its list of fonts takes seconds to make
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["XDG_CACHE_HOME"])


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of sample faces: 12 identities × 8 images, and 40 pairs in 10 folds."""
    out = tmp_path_factory.mktemp("sample") / "data"
    make_sample_data(out, SAMPLE, workers=2)
    return out


@pytest.fixture(scope="session")
def quickstart_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample data of the quick start, as `tools/make_sample_data.py` makes it unasked."""
    out = tmp_path_factory.mktemp("quickstart") / "data"
    make_sample_data(out, Options())
    return out


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images (not shipped): $FR_SHARED_DATA, by default ../shared/data."""
    folder = _shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set FR_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def real_or_sample(request: pytest.FixtureRequest) -> Path:
    """faces-mini where it is at hand, else the quick start's sample data; both in the same layout."""
    real = _shared_folder() / "faces-mini"
    return real if real.is_dir() else request.getfixturevalue("quickstart_data")


def _shared_folder() -> Path:
    return Path(os.environ.get("FR_SHARED_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def one_rank():
    """A process group of one, as `python train.py` has it."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _run_rank(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    result = function(*arguments)
    torch.save(result, f"{folder}/result_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture
def run_distributed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """run_distributed(world, function, *arguments) → what the function returned on each gloo rank."""

    def run(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        # Forked from a server that has imported torch once: importing it takes longer than most of these functions.
        multiprocessing.set_forkserver_preload(["tests.conftest", "torch._dynamo"])
        for last in (False, True):
            folder = tmp_path_factory.mktemp("ranks")
            job = (world, str(folder), function, arguments)
            try:
                mp.start_processes(_run_rank, job, nprocs=world, start_method="forkserver")
                break
            except mp.ProcessRaisedException as error:  # on a busy machine gloo's ranks don't always find each other
                if last or "connectFullMesh" not in str(error):
                    raise
        return [torch.load(folder / f"result_{rank}.pt", weights_only=True) for rank in range(world)]

    return run


def vgg_faces(data: Path) -> LabelledFaces:
    """The training faces of a folder in the layout of the sample data."""
    base = data / "vggface2"
    return read_vgg(DataRoot(base / "train"), str(base / "meta/train_list.txt"), str(base / "bb_landmark"))


# What train.py can't do without; the words that follow in a test change nothing about it.
REQUIRED = [word for name in ("data_root", "list", "landmarks") for word in (f"--train_{name}", "x")]


def launch(script: str, *options: str, ranks: int = 1, **settings: Any) -> subprocess.CompletedProcess[str]:
    """The real command, with torchrun from two ranks on; the repository is found from any working folder."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [sys.executable, *(torchrun if ranks > 1 else []), str(ROOT / script), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **settings)


def kill_when(reached: Callable[[], bool], command: list[str]) -> None:
    """SIGKILL to a command as soon as it has come so far, which it must before it ends."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not reached() and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# For the scores of a network trained for a few iterations. A fresh MobileNet, with batch statistics of few iterations,
# gives all images one embedding but for rounding; at the default --lr, rounding decides whether the training diverges.
# This model, with its initial statistics, spreads the scores by 0.14; steps of at most 1e-6 change that little.
SPREAD = ["--model", "shufflenetv2", "--freeze_bn", "--lr", "1e-6", "--clip_norm", "1"]


def trained_briefly(options: list[str], out: Path, model: Sequence[str] = ("--lr", "0.01")) -> Path:
    """The snapshot of two iterations on tiny images. options: data, and what else there is to say.

    model: backbone and learning rate; `SPREAD` where scores count, though its embeddings are only some 1e-6 long.
    """
    tiny = ["--max_iterations", "2", "--input_size", "32", "--embed_size", "16", "--train_batch_size", "16"]
    where = ["--snap_folder", str(out), "--log_folder", f"{out}/logs"]
    train.main([*options, *tiny, *model, *where])
    return out / "FaceReidNet_2.pt"


# --- runs of train.py -------------------------------------------------------------------------------------------------

TINY = [
    *("--input_size", "32", "--embed_size", "16", "--train_batch_size", "16", "--lr", "0.05", "--clip_norm", "5"),
    *("--log_step", "1", "--val_step", "1000", "--device", "cpu", "--dali_threads", "1"),
    *("--card", "false"),
]
Losses = list[float]


def losses(folder: Path) -> Losses:
    return [record["loss"] for record in records(folder / "logs")]


def folders(out: Path) -> list[str]:
    return ["--snap_folder", str(out / "snapshots"), "--log_folder", str(out / "logs"), "--snap_prefix", "tiny"]


@pytest.fixture
def run(sample_data: Path, tmp_path: Path) -> Callable[..., Losses]:
    """run(*options) trains in this process, three iterations unless told otherwise, and returns the losses."""

    def run_here(*options: str, out: Path = tmp_path) -> Losses:
        base = [*data_options(sample_data), *TINY, "--max_iterations", "3", *folders(out)]
        assert train.main([*base, *options]) == 0
        return losses(out)

    return run_here


def one_layer(_name: str, embed_size: int, input_size: tuple[int, int], _kwargs: object = None) -> nn.Sequential:
    height, width = (side // 4 for side in input_size)
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(3 * height * width, embed_size))


def small_network(signal_at: int = 0, number: int = signal.SIGTERM, dropout: float = 0.2) -> Callable[..., nn.Module]:
    """A `build_model` of little more than one layer, that draws from torch's generator and has batch statistics.

    signal_at: the forward pass of a training, from 1, at which this process gets the signal `number`; 0 = none.
    """

    def build(_name: str, embed_size: int, input_size: tuple[int, int], _kwargs: object = None) -> nn.Module:
        network, passes = one_layer("", embed_size, input_size), itertools.count(1)
        network.extend([nn.BatchNorm1d(embed_size), nn.Dropout(dropout)])

        def count(module: nn.Module, _inputs: Any) -> None:
            if module.training and next(passes) == signal_at:
                os.kill(os.getpid(), number)

        network.register_forward_pre_hook(count)
        return network

    return build


@pytest.fixture(scope="module")
def run_small(sample_data: Path) -> Callable[..., Losses]:
    """Same as `run`, with a backbone of one layer, ten times as fast: for what the losses and the loop do."""

    def run_here(*options: str, out: Path) -> Losses:
        base = [*data_options(sample_data), *TINY, "--max_iterations", "3", *folders(out)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "build_model", one_layer)
            assert train.main([*base, *options]) == 0
        return losses(out)

    return run_here


@pytest.fixture(scope="module")
def reference_with(run_small: Callable[..., Losses], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Losses]:
    """reference_with(partner) → losses of a run with the partner of an option alone, each made once."""

    @functools.cache
    def reference(partner: str) -> Losses:
        return run_small(*partner.split(), out=tmp_path_factory.mktemp("reference"))

    return reference


def weights(out: Path, iteration: int) -> dict[str, torch.Tensor]:
    return snapshot.read(out / "snapshots" / f"tiny_{iteration}.pt").state_dict


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def skip_two_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, let the meters count two steps of three as skipped, in every training."""
    numbers = itertools.count()
    monkeypatch.setattr(
        Meters, "count", lambda meters, _: _COUNT(meters, torch.tensor(float(next(numbers) % 3 != 2)))
    )


_COUNT = Meters.count
