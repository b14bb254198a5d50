"""Truncated and bit-flipped JPEGs: what the device's decoder accepts and the CPU's refuses."""

from pathlib import Path

import numpy as np
import torch

from fr.data.faces import Faces
from fr.data.pipeline import DaliSettings, FaceStream, Undecodable
from fr.data.samples import SampleBatch
from tests.gpu.faces import CONTRACT, dali, image_folder, in_gray_levels, read_faces
from tests.gpu.job import Job

_GOOD = 15  # images beside a damaged one, so that the batch is large enough for the hardware decoder's share


class _Refusing(FaceStream):
    """A stream that doesn't search for the image at fault, which would take a graph or two for each."""

    def _search(self, batch: SampleBatch) -> dict[int, str]:
        return {}


def check(job: Job) -> None:
    count = job.pick(40, 12)
    names, faces = _damaged_faces(job, count)
    shown = _accepted(faces, dali(job), count)
    wanted = _accepted(faces, dali(job, "cpu"), count)
    silent = [names[number] for number in sorted(shown.keys() - wanted.keys())]
    strict = [names[number] for number in sorted(wanted.keys() - shown.keys())]
    both = shown.keys() & wanted.keys()
    largest = max((float(np.abs(shown[number] - wanted[number]).mean()) for number in both), default=0.0)
    job.findings.metric("damaged files accepted by the device, by the CPU", f"{len(shown)}, {len(wanted)} of {count}")
    job.findings.claim("the device refuses what the CPU refuses", not silent, ", ".join(silent))
    job.findings.metric("refused by the device alone", ", ".join(strict) or "none")
    job.findings.metric("largest mean difference of a file that both accept", largest, "grey levels")
    _check_unreadable(job, faces, count)
    alive = torch.ones(4, device=job.device).sum().item() == 4
    good = iter([SampleBatch(faces, np.arange(count, count + _GOOD))])
    again, _ = next(FaceStream(good, _GOOD, CONTRACT, dali(job)))
    job.findings.claim("torch and DALI go on after them", alive and len(again) == _GOOD)


def _check_unreadable(job: Job, faces: Faces, count: int) -> None:
    """Files that aren't there or are empty fail their batch before DALI sees it: the graph goes on."""
    Path(faces.path(0)).write_bytes(b"")
    Path(faces.path(1)).unlink()
    good = np.arange(count, count + _GOOD)
    batches = (SampleBatch(faces, rows) for rows in (np.concatenate([[0, 1], good]), np.concatenate([good, good[:2]])))
    stream = FaceStream(batches, _GOOD + 2, CONTRACT, dali(job))
    rows: list[int] = []
    try:
        next(stream)
    except Undecodable as failure:
        rows = sorted(failure.rows)
    images, _ = next(stream)
    right = rows == [0, 1] and not stream.broken and len(images) == _GOOD + 2
    job.findings.claim("an empty and a missing file fail their batch, and the graph goes on", right)


def _damaged_faces(job: Job, count: int) -> tuple[list[str], Faces]:
    """So many damaged files, with what is wrong with each, and good ones after them."""
    source, rng = read_faces(job), np.random.default_rng(0)
    names, encoded = [], []
    for number in range(count):
        content = bytearray(source.read(number).tobytes())
        if number % 2:
            place = int(rng.integers(len(content) // 4, len(content) - 2))
            content[place] ^= 1 << int(rng.integers(8))
            names.append(f"bit flipped at {place / len(content):.0%}")
        else:
            kept = float(rng.uniform(0.2, 0.98))
            del content[int(kept * len(content)) :]
            names.append(f"cut at {kept:.0%}")
        encoded.append(bytes(content))
    good = [source.read(count + number).tobytes() for number in range(_GOOD)]
    return names, image_folder(job.out / "images", encoded + good)


def _accepted(faces: Faces, settings: DaliSettings, count: int) -> dict[int, np.ndarray]:
    """Pixels of the damaged files that pass, by number; each is shown at a place of its own in a batch of good ones."""
    good = np.arange(count, count + _GOOD)
    accepted, number = {}, 0
    while number < count:
        batches = (SampleBatch(faces, np.insert(good, place % 16, place)) for place in range(number, count))
        try:
            for images, _ in _Refusing(batches, _GOOD + 1, CONTRACT, settings):
                accepted[number] = in_gray_levels(images[number % 16])
                number += 1
        except Undecodable:
            number += 1
    return accepted
