"""Checks of a training's options against the number of ranks and the data."""

import argparse
from collections.abc import Sequence

from fr.errors import InputError
from fr.options.validation import nearest


def check_identities(identities: Sequence[str]) -> None:
    """Raise InputError for training data of one identity, which can't be classified."""
    if len(identities) < 2:
        raise InputError(f"the training images are of one identity ({identities[0]}); a training needs at least two")


def check_batches(options: argparse.Namespace, world_size: int) -> None:
    """Raise InputError for batches that can't be trained with.

    That is a global batch that doesn't split evenly over the ranks; micro-batches of one image, whose batch norms have
    no variance; and with --mix_prob odd ones.
    """
    parts = world_size * options.accumulate
    size = f"--train_batch_size {options.train_batch_size}"
    split = f"{world_size} (ranks) x {options.accumulate} (--accumulate)"
    images, rest = divmod(options.train_batch_size, parts)
    if rest:
        raise InputError(
            f"{size} doesn't divide into {split} equal micro-batches; {nearest(options.train_batch_size, parts)}"
        )
    if images * (world_size if options.sync_bn else 1) == 1 and not options.freeze_bn:
        raise InputError(
            f"{size} on {split}: one image in each micro-batch, and batch norms need two: give a larger "
            "--train_batch_size or a smaller --accumulate, or --freeze_bn"
        )
    if options.mix_prob and images % 2:
        raise InputError(
            f"--mix_prob: blends pairs of images, and a micro-batch has {images}: change --train_batch_size"
        )
