#!/usr/bin/env python3
"""Draw a training batch before and after augmentation as one PNG.

    python tools/show_batch.py @configs/quickstart.yml --iteration 1 --out batch.png
    python tools/show_batch.py @configs/quickstart.yml --out batch.png --jpeg_prob 0.5 --jpeg_quality 10
    python tools/show_batch.py @configs/quickstart.yml --out choices.png --each

The images come from the training stream: those of iteration K are the ones that train.py uses with the same options.
Each pair is the aligned face and its augmented version, captioned with the identity and the drawn parameters. With
--each every enabled augmentation gets its own row, alone and applied to every face, for choosing strengths. All other
arguments are train.py's options.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/show_batch.py", "tools.options.show_batch:options")

from dataclasses import dataclass, fields, replace
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fr.data.augmentation import Draws, draw
from fr.data.bad_images import BadImages
from fr.data.faces import LabelledFaces
from fr.data.formats import read_training_faces
from fr.data.order import Order, training_order
from fr.data.pipeline import DaliSettings, dali_settings
from fr.data.prefetch import files_of
from fr.data.training_stream import TrainingStream
from fr.distributed import Ranks, open_ranks
from fr.errors import run_plainly
from fr.files.durable import write_result
from fr.files.images import image_file
from fr.models import training_preprocessing
from fr.options.augmentation import Augmentation
from fr.preprocessing import Preprocessing
from fr.progress import tracked
from fr.report.font import font
from fr.train.monitor import pictures
from tools.options.show_batch import options as read_options

_PROBABILITIES = [field.name for field in fields(Augmentation) if field.name.endswith("_prob")]
_OFF: dict[str, Any] = dict.fromkeys(_PROBABILITIES, 0.0)
_WIDTH = 1600  # pixels of the sheet, unless one face is wider
_SIDE = 96  # pixels; smaller inputs are shown in whole multiples
_FONT, _LINE, _LETTER = 11, 15, 7  # pixels: size, height of a line, width of a letter
_GAP = 6  # pixels between cells
_NO_BREAK = "\N{NO-BREAK SPACE}"  # keeps a caption's numbers with their words


@dataclass(frozen=True)
class Cell:
    """Image [h, w, 3] uint8 with a caption."""

    pixels: NDArray[np.uint8]
    caption: str


@dataclass(frozen=True)
class Batch:
    """Batch of one training iteration."""

    faces: LabelledFaces
    order: Order
    iteration: int  # from 1 on, as train.py counts
    preprocessing: Preprocessing
    dali: DaliSettings
    ranks: Ranks
    max_bad_images: int

    def seen(self, augmentation: Augmentation, count: int) -> tuple[NDArray[np.uint8], list[str]]:
        """First faces as they enter the network, [count, H, W, 3] RGB, and their identities."""
        iterations, bad = range(self.iteration - 1, self.iteration), BadImages(self.max_bad_images)
        stream = TrainingStream(
            self.faces, self.order, iterations, self.ranks, 1, self.preprocessing, augmentation, self.dali, bad
        )
        ((images, labels),) = stream
        levels = (pictures(images[:count], self.preprocessing) * 255).round().byte()
        return levels.permute(0, 2, 3, 1).numpy(), [self.faces.identities[label] for label in labels[:count].tolist()]

    def drawn(self, augmentation: Augmentation, count: int) -> list[str]:
        """Drawn augmentation parameters of the first faces, as text."""
        share = self.order.share(self.iteration - 1, 0, 1)
        draws = draw(augmentation, self.order.seed, share.epoch, share.first, count)
        return [", ".join(describe(draws, row)) or "as it is" for row in range(count)]


def describe(draws: Draws, row: int) -> list[str]:
    """Drawn parameters of one face, in the order of application."""
    right, down = 100 * draws.shift[row]
    brightness, contrast, saturation = draws.color_factors[row]
    every = {
        "mirror": draws.flip[row],
        f"turn {np.rad2deg(draws.angle[row]).round() + 0:+.0f}°": draws.angle[row] != 0,
        f"zoom {draws.zoom[row]:.2f}": draws.zoom[row] != 1,
        f"shift {right.round() + 0:+.0f} {down.round() + 0:+.0f} %": (draws.shift[row] != 0).any(),
        f"crop to {100 * draws.crop_side[row]:.0f} %": draws.crop_side[row] != 1,
        f"brightness {brightness:.2f}": draws.color[row],
        f"contrast {contrast:.2f}": draws.color[row],
        f"saturation {saturation:.2f}": draws.color[row] and not draws.gray[row],
        "grey": draws.gray[row],
        f"boxes {draws.box_count[row]}": draws.box_count[row] > 0,
        "blur": draws.blur[row],
        f"resolution {100 * draws.lowres_ratio[row]:.0f} %": draws.lowres[row],
        f"JPEG {draws.jpeg_quality[row]}": draws.jpeg[row],
        f"erased {100 * draws.erase_extent[row].prod():.0f} %": draws.erase[row],
    }
    return [text.replace(" ", _NO_BREAK) for text, happened in every.items() if happened]


def pairs(batch: Batch, augmentation: Augmentation, count: int) -> dict[str, list[Cell]]:
    """Section with each face before and after augmentation."""
    before, _ = batch.seen(replace(augmentation, **_OFF), count)
    after, identities = batch.seen(augmentation, count)
    drawn = batch.drawn(augmentation, count)
    rule = np.full((len(before[0]), 1, 3), 255, dtype=np.uint8)
    cells = [
        Cell(np.concatenate([one, rule, other], axis=1), f"{identity}: {words}")
        for one, other, identity, words in zip(before, after, identities, drawn, strict=True)
    ]
    return {f"iteration {batch.iteration}, {count} of {batch.order.batch_size} faces: aligned, augmented": cells}


def each(batch: Batch, augmentation: Augmentation, count: int) -> dict[str, list[Cell]]:
    """Section of the aligned faces, and one for each enabled augmentation, alone and applied to every face."""
    count = min(count, _columns(batch.preprocessing.input_size))
    sections = {}
    for name in tracked(["", *_PROBABILITIES], "row", "drawing"):
        probability = getattr(augmentation, name, 0.0)
        if name and not probability:
            continue
        alone = replace(augmentation, **(_OFF | ({name: 1.0} if name else {})))
        images, identities = batch.seen(alone, count)
        words = batch.drawn(alone, count) if name else identities
        title = ", ".join([f"--{name} {probability:g}", *strengths(augmentation, name)]) if name else "aligned"
        sections[title] = [Cell(image, word) for image, word in zip(images, words, strict=True)]
    return sections


def strengths(augmentation: Augmentation, probability: str) -> list[str]:
    """Strength options of an augmentation: those that begin with its name."""
    first = probability.removesuffix("prob")
    names = [field.name for field in fields(Augmentation) if field.name.startswith(first) and field.name != probability]
    return [f"--{name} {getattr(augmentation, name):g}" for name in names]


def sheet(sections: dict[str, list[Cell]]) -> Image.Image:
    """Stack sections vertically, with as many cells per row as fit the width."""
    strips = []
    for title, cells in sections.items():
        columns = _columns(cells[0].pixels.shape)
        for first in range(0, len(cells), columns):
            strips.append(strip("" if first else title, cells[first : first + columns]))
    height = sum(one.height + _GAP for one in strips)
    image = Image.new("RGB", (max(one.width for one in strips), height), "white")
    top = 0
    for one in strips:
        image.paste(one, (0, top))
        top += one.height + _GAP
    return image


def strip(title: str, cells: list[Cell]) -> Image.Image:
    """Row of cells with captions below and a title above."""
    height, width = _shown(cells[0].pixels.shape)
    captions = [wrap(cell.caption, width // _LETTER, break_on_hyphens=False) for cell in cells]
    top = _LINE + _GAP if title else 0
    size = (_GAP + len(cells) * (width + _GAP), top + height + _LINE * max(map(len, captions)))
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    pen.text((_GAP, 2), title, fill="black", font=font(_FONT, title))
    for number, (cell, caption) in enumerate(zip(cells, captions, strict=True)):
        left = _GAP + number * (width + _GAP)
        image.paste(Image.fromarray(cell.pixels).resize((width, height), Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(caption):
            pen.text((left, top + height + line * _LINE), text, fill="black", font=font(_FONT, text))
    return image


def _shown(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width on the sheet of an image of (height, width, …) pixels."""
    scale = max(1, -(-_SIDE // shape[0]))
    return scale * shape[0], scale * shape[1]


def _columns(shape: tuple[int, ...]) -> int:
    return max(1, _WIDTH // (_shown(shape)[1] + _GAP))


def main(argv: list[str]) -> int:
    arguments, resolved = read_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        faces = read_training_faces(vars(options))
        order = training_order(options, faces.labels, files_of(faces))
        dali = dali_settings(options.dali_device, options.dali_threads, ranks)
        preprocessing = training_preprocessing(options)
        batch = Batch(faces, order, arguments.iteration, preprocessing, dali, ranks, options.max_bad_images)
        show = each if arguments.each else pairs
        picture = sheet(show(batch, Augmentation.from_options(options), min(arguments.faces, order.batch_size)))
    write_result(arguments.out, image_file(picture, "PNG"))
    print("\n".join([*resolved.notes, f"wrote {arguments.out}"]))
    return 0


if __name__ == "__main__":
    run_plainly("tools/show_batch.py", main)
