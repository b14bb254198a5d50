"""Procedural people and shots: a person has proportions, colours and marks; a shot adds pose, expression and camera.

Lengths are in head units (half the height of a head is about 1), angles in radians, colours BGR in 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

LIGHT_SIDE = 0.75  # largest additional brightness of the lit edge of a face, relative to the middle
SHADOW_RATE = 0.35

# Parameters of a person, as uniform ranges; they are wide, so that two people seldom agree in many of them.
TRAITS: dict[str, tuple[float, float]] = {
    "face_width": (0.66, 0.86),
    "temple_width": (0.84, 1.0),  # of face_width, as jaw_width and chin_width
    "jaw_width": (0.62, 0.98),
    "chin_width": (0.25, 0.6),
    "chin_y": (0.9, 1.12),
    "eye_y": (-0.14, 0.04),
    "eye_gap": (0.27, 0.38),  # half the distance between the eyes
    "eye_width": (0.11, 0.18),
    "eye_height": (0.045, 0.1),
    "eye_tilt": (-0.22, 0.25),
    "iris": (0.05, 0.08),
    "lid_fold": (0.0, 0.06),
    "brow_lift": (0.14, 0.26),
    "brow_length": (0.13, 0.24),
    "brow_thickness": (0.015, 0.08),
    "brow_arch": (-0.02, 0.1),
    "brow_tilt": (-0.3, 0.3),
    "brow_darkness": (0.35, 1.0),
    "nose_length": (0.3, 0.5),
    "nose_width": (0.08, 0.2),
    "nose_bridge": (0.025, 0.07),
    "nose_depth": (0.12, 0.26),
    "mouth_drop": (0.2, 0.34),  # below the tip of the nose
    "mouth_width": (0.17, 0.33),
    "upper_lip": (0.015, 0.07),
    "lower_lip": (0.025, 0.1),
    "mouth_bow": (-0.04, 0.04),
    "ear_size": (0.1, 0.2),
    "hairline": (-0.85, -0.42),
    "parting": (-0.5, 0.5),
    "parting_lift": (-0.12, 0.28),
    "hair_volume": (0.04, 0.3),
    "hair_end": (-0.4, 1.25),
    "sideburn": (-0.35, 0.25),
    "cheek_line": (0.0, 0.5),
    "eye_bag": (0.0, 0.4),
}


@dataclass(frozen=True)
class Person:
    """Appearance of one identity. Equal persons are drawn alike up to the conditions of the shot."""

    traits: dict[str, float]
    skin: Floats  # (3,), as all colours
    hair: Floats
    iris: Floats
    lips: Floats
    beard: str  # "none", "moustache", "goatee", "full"
    glasses: float  # radius of the lenses; 0: wears none
    marks: Floats  # (n, 4): x, y, radius, darkness of moles and freckles
    female: bool


@dataclass(frozen=True)
class Shot:
    """Pose and expression: everything in an image that moves the drawn points."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)  # of the head's middle from the image's, in image sizes
    smile: float = 0.0
    mouth_open: float = 0.0
    lids: float = 1.0  # opening of the eyes, 1 = normal
    brow_raise: float = 0.0
    gaze: float = 0.0
    cover: str = ""  # "hat", "sunglasses", "strand" or nothing


def draw_person(rng: np.random.Generator) -> Person:
    """Draw the random parameters of an identity."""
    traits = {name: float(rng.uniform(low, high)) for name, (low, high) in TRAITS.items()}
    female = bool(rng.random() < 0.5)
    tone = rng.beta(1.2, 1.6)
    skin = (1 - tone) * np.array([175.0, 200.0, 238.0]) + tone * np.array([62.0, 92.0, 140.0])
    hairs = np.array([[28, 26, 30], [35, 50, 80], [40, 75, 125], [95, 160, 205], [40, 70, 165], [170, 170, 172]], float)
    hair = hairs[rng.integers(len(hairs))] * rng.uniform(0.8, 1.2)
    irises = np.array([[40, 60, 90], [150, 110, 60], [90, 120, 70], [110, 110, 100], [20, 35, 55]], float)
    lips = skin * np.array([0.72, 0.6, 0.9]) * rng.uniform(0.75, 1.05)
    beard = "none" if female else str(rng.choice(["none", "moustache", "goatee", "full"], p=[0.46, 0.18, 0.18, 0.18]))
    glasses = float(rng.uniform(0.17, 0.27)) if rng.random() < 0.2 else 0.0
    moles = int(rng.integers(0, 4))
    freckles = int(rng.integers(15, 45)) if rng.random() < 0.2 else 0
    count = moles + freckles
    marks = np.column_stack([
        rng.uniform(-0.55, 0.55, count), rng.uniform(-0.45, 0.8, count),
        np.where(np.arange(count) < moles, rng.uniform(0.022, 0.045, count), rng.uniform(0.008, 0.018, count)),
        np.where(np.arange(count) < moles, 0.75, 0.35),
    ])
    marks[moles:, 1] = marks[moles:, 1] * 0.35 + 0.15  # freckles gather on nose and cheeks
    return Person(traits, skin, hair, irises[rng.integers(len(irises))], lips, beard, glasses, marks, female)


def draw_shot(rng: np.random.Generator) -> Shot:
    """Draw pose, position and expression at random; landmarks of any person stay inside the image."""
    zoom = float(np.exp(rng.uniform(np.log(0.7), np.log(1.3))))
    room = 0.11 if zoom < 1 else 0.06
    return Shot(
        yaw=float(np.clip(rng.normal(0, 0.2), -0.45, 0.45)),
        pitch=float(np.clip(rng.normal(0, 0.11), -0.25, 0.25)),
        roll=float(np.clip(rng.normal(0, 0.2), -0.436, 0.436)),  # 25 degrees
        zoom=zoom,
        shift=(float(rng.uniform(-room, room)), float(rng.uniform(-room, room))),
        smile=float(rng.uniform(-0.25, 1.0)),
        mouth_open=float(max(0.0, rng.uniform(-0.6, 1.0))),
        lids=float(rng.uniform(0.55, 1.15)),
        brow_raise=float(rng.uniform(-0.5, 1.0)),
        gaze=float(rng.uniform(-1.0, 1.0)),
        cover=str(rng.choice(["", "strand", "hat", "sunglasses"], p=[0.91, 0.04, 0.03, 0.02])),
    )


def draw_backdrop(rng: np.random.Generator, side: int) -> Pixels:
    """Draw a blurred random background (side, side, 3)."""
    cells = int(rng.integers(2, 7))
    colours = rng.uniform(20, 235, 3) + rng.normal(0, rng.uniform(5, 60), (cells, cells, 3))
    coarse = np.clip(colours, 0, 255).astype(np.uint8)
    kind = cv2.INTER_NEAREST if rng.random() < 0.25 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=kind), np.uint8)


def _light(rng: np.random.Generator, middle: Floats, radius: float, size: int) -> NDArray[np.float32]:
    """Brightness (size, size) over a head at middle: a lamp at one side, sometimes the edge of a shadow."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, LIGHT_SIDE)
    grid = np.arange(size, dtype=np.float32)
    x, y = (grid[None] - np.float32(middle[0])) / radius, (grid[:, None] - np.float32(middle[1])) / radius
    across = np.cos(angle) * x + np.sin(angle) * y
    light = 1 + strength * np.clip(across, -1.1, 1.1)
    if rng.random() < SHADOW_RATE:
        angle, edge, depth = rng.uniform(0, 2 * np.pi), rng.uniform(-0.6, 0.6), rng.uniform(0.25, 0.65)
        away = (np.cos(angle) * x + np.sin(angle) * y - edge) / rng.uniform(0.03, 0.3)
        light = light * (1 - depth / (1 + np.exp(-np.clip(away, -20, 20))))
    return np.asarray(light, np.float32)


def photograph(rng: np.random.Generator, image: Pixels, outline: Floats) -> bytes:
    """Apply light and camera effects to a drawn face (s, s, 3) with an outline (n, 2); returns JPEG bytes."""
    size = len(image)
    middle, radius = outline.mean(0), float(np.ptp(outline[:, 1])) / 2
    scene = image.astype(np.float32) / 255
    cast = np.exp(rng.normal(0, 0.09, 3)) * np.exp(rng.uniform(-0.4, 0.2))
    light = _light(rng, middle, radius, size)
    scene *= cv2.merge([light * np.float32(c) for c in cast])  # faster than NumPy's broadcasting over three channels
    scene = np.clip(scene, 0, 1) ** np.float32(np.exp(rng.uniform(-0.3, 0.3)))
    contrast, haze = rng.uniform(0.75, 1.1), rng.uniform(0.0, 0.15)
    scene = scene * np.float32(contrast) + np.float32(haze)
    sigma = rng.uniform(0.0, 1.2) * size / 160
    if sigma > 0.3:
        scene = np.asarray(cv2.GaussianBlur(scene, (0, 0), sigma), np.float32)
    # The difference of two random bytes is twenty times faster than normal numbers.
    noise = np.frombuffer(rng.bytes(2 * scene.size), np.uint8).reshape(2, *scene.shape).astype(np.float32)
    scene += np.float32(rng.uniform(0.0, 0.07) / 256) * (noise[0] - noise[1])
    shot = np.clip(scene * 255 + 0.5, 0, 255).astype(np.uint8)
    done, data = cv2.imencode(".jpg", shot, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))])
    assert done
    return bytes(data)
