"""Memory of the loader doesn't grow with the number of batches it has made."""

import gc
from itertools import islice
from pathlib import Path

import pytest
import torch

from fr.data.bad_images import BadImages
from fr.data.order import Order
from fr.data.pipeline import DaliSettings
from fr.data.readers.vgg import read_vgg
from fr.data.training_stream import TrainingStream
from fr.distributed import Ranks
from fr.files.data_root import DataRoot
from fr.options.augmentation import Augmentation
from fr.preprocessing import Preprocessing

BATCH = 16


def private_bytes() -> int:
    """Resident memory of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


@pytest.mark.thorough
def test_a_stream_takes_no_more_memory_the_longer_it_runs(sample_data: Path) -> None:
    root = sample_data / "vggface2"
    faces = read_vgg(DataRoot(root / "train"), str(root / "meta/train_list.txt"), str(root / "bb_landmark"))
    order = Order(len(faces), BATCH, seed=0)
    every = Augmentation(color_prob=0.5, lowres_prob=0.5, jpeg_prob=0.5, erase_prob=0.5)
    dali, ranks = DaliSettings("cpu", None, 2), Ranks(0, 1, 0, 1, torch.device("cpu"))
    stream = TrainingStream(
        faces, order, range(10_000), ranks, 1, Preprocessing((64, 64)), every, dali, BadImages(0)
    )
    batches = iter(stream)
    held = []
    for count in (60, 200, 200):  # queues fill, the allocator settles
        for _ in islice(batches, count):
            pass
        gc.collect()
        held.append(private_bytes())
    # 200 batches are 160 MB of pixels and floats; the allocator's own ups and downs were below 2 MB.
    assert held[2] - held[1] < 4e6, held
