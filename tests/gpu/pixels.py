"""512 faces through DALI on the device and on the CPU: plain, and with each augmentation alone."""

from dataclasses import replace

import numpy as np

from fr.options.augmentation import Augmentation
from tests.gpu.faces import PLAIN, dali, first_faces, in_gray_levels, stream
from tests.gpu.job import Job

AUGMENTATIONS = {
    "plain": PLAIN,
    "mirror": replace(PLAIN, flip_prob=1),
    "rotation": replace(PLAIN, rotate_prob=1, rotate_degrees=20),
    "zoom, shift, crop": replace(PLAIN, zoom_prob=1, shift_prob=1, crop_prob=1),
    "colour": replace(PLAIN, color_prob=1),
    "grey": replace(PLAIN, gray_prob=1),
    "cut-out": replace(PLAIN, cutout_prob=1),
    "blur": replace(PLAIN, blur_prob=1),
    "low resolution": replace(PLAIN, lowres_prob=1),
    "JPEG": replace(PLAIN, jpeg_prob=1),
    "erasing": replace(PLAIN, erase_prob=1),
    "all": Augmentation(
        zoom_prob=0.5,
        shift_prob=0.5,
        crop_prob=0.5,
        color_prob=0.5,
        gray_prob=0.5,
        cutout_prob=0.5,
        blur_prob=0.5,
        lowres_prob=0.5,
        jpeg_prob=0.5,
        erase_prob=0.5,
    ),
}
_MEAN, _NEAR, _SHARE = 1.0, 4.0, 0.99  # grey levels: mean difference below, and so many of the pixels within
# Where a JPEG's coefficients are rounded to steps of tens of grey levels, a small difference becomes a whole step.
_JPEG_MEAN, _JPEG_SHARE = 1.5, 0.95


def check(job: Job) -> None:
    faces = first_faces(job, job.pick(512, 64))
    # Where there is no GPU: the same with another number of threads, which must change nothing.
    others = dali(job, "cpu", threads=1)
    for name, augmentation in AUGMENTATIONS.items():
        differences = []
        both = (stream(faces, settings, 64, augmentation) for settings in (dali(job), others))
        for (images, _), (wanted, _) in zip(*both, strict=True):
            differences.append(np.abs(in_gray_levels(images) - in_gray_levels(wanted)))
        difference = np.concatenate(differences)
        mean, near = difference.mean(), (difference <= _NEAR).mean()
        least, most = (_JPEG_SHARE, _JPEG_MEAN) if augmentation.jpeg_prob == 1 else (_SHARE, _MEAN)
        job.findings.claim(
            f"{name}: {len(faces)} faces as on the CPU",
            bool(mean < most and near >= least),
            f"mean {mean:.3f}, within {_NEAR:.0f}: {near:.4f}, most {difference.max():.0f}",
        )
