"""Procedural face drawing: filled curves of a 3D head, projected by a camera.

Lengths are in head units: half the height of a head is about 1, x to the right, y downwards, z towards the camera, the
origin at the centre of the head. Colours are BGR in 0..255.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tools.sample.people import Floats, Person, Pixels, Shot

SUPERSAMPLING = 2  # faces are drawn at twice the size, then averaged down
HEAD_SCALE = 0.30  # head units to image sizes, at zoom 1
HEAD_CURVE = np.array([0.95, 1.25]) ** -2.0  # the face is an ellipsoid of these half axes


@lru_cache(maxsize=64)
def _spline(count: int, closed: bool, steps: int = 6) -> Floats:
    """Matrix (m, count) from control points to the Catmull-Rom curve through them."""
    p = np.eye(count)
    before, after, after2 = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    if not closed:
        before[0], after[-1], after2[-2:] = p[0], p[-1], p[-1]
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    a, b, c = after - before, 2 * before - 5 * p + 4 * after - after2, 3 * p - before - 3 * after + after2
    terms = [p[:, None] * 2, a[:, None] * t, b[:, None] * t**2, c[:, None] * t**3]
    curve = 0.5 * np.asarray(sum(terms)).reshape(-1, count)
    return curve if closed else np.vstack([curve[: (count - 1) * steps], p[-1:]])


def smooth(points: ArrayLike, closed: bool = True) -> Floats:
    """Catmull-Rom curve through points (n, 2): (m, 2)."""
    p = np.asarray(points, float)
    return np.asarray(_spline(len(p), closed) @ p)


@lru_cache(maxsize=8)
def _circle(count: int) -> Floats:
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.column_stack([np.cos(t), np.sin(t)])


def ellipse(x: float, y: float, rx: float, ry: float, count: int = 20) -> Floats:
    """Points (count, 2) on an ellipse."""
    return _circle(count) * (rx, ry) + (x, y)


class Canvas:
    """Image with a camera: fills and strokes in head units, projected by the pose."""

    def __init__(self, shot: Shot, background: Pixels) -> None:
        self.image = background
        size = len(background) // SUPERSAMPLING
        cy, sy, cp, sp, cr, sr = (f(a) for a in (shot.yaw, shot.pitch, shot.roll) for f in (np.cos, np.sin))
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        scale = HEAD_SCALE * shot.zoom * size
        self.camera, self.unit = (roll @ pitch @ yaw)[:2] * scale, scale * SUPERSAMPLING  # unit: in drawn pixels
        self.middle = (np.array(shot.shift) + np.array([0.5, 0.47])) * size

    def project(self, points: ArrayLike, depth: float | None = None, above: float = 0.0) -> Floats:
        """Project points (n, 2) to pixels (n, 2); depth None: on the face's surface, `above` over it."""
        p = np.asarray(points, float).reshape(-1, 2)
        flat = p @ self.camera[:, :2].T + self.middle
        if depth is not None:
            return np.asarray(flat + depth * self.camera[:, 2])
        surface = 0.7 * np.sqrt(np.maximum(0.0, 1 - (p * p) @ HEAD_CURVE))
        return np.asarray(flat + (surface + above)[:, None] * self.camera[:, 2])

    def _fixed(self, pixels: Floats) -> NDArray[np.int32]:
        # the centre of a pixel is at a whole number in OpenCV, before and after the averaging down
        drawn = (pixels + 0.5) * SUPERSAMPLING - 0.5
        return np.round(drawn * 16).astype(np.int32)

    def fill(self, points: ArrayLike, colour: Floats, depth: float | None = None, opacity: float = 1.0,
             soft: float = 0.0, above: float = 0.0) -> None:
        """Fill a polygon (n, 2); soft: the blur of its edge in head units."""
        fixed = self._fixed(self.project(points, depth, above))
        if opacity == 1 and not soft:
            cv2.fillPoly(self.image, [fixed], colour.tolist(), cv2.LINE_AA, 4)
            return
        sigma, margin = soft * self.unit, int(3 * soft * self.unit) + 2
        low = np.maximum(fixed.min(0) // 16 - margin, 0)
        high = np.minimum(fixed.max(0) // 16 + margin, len(self.image))
        if (high <= low).any():
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillPoly(mask, [fixed - low * 16], 255, cv2.LINE_AA, 4)
        weight = mask.astype(np.float32) * np.float32(opacity / 255)
        if sigma > 0.3:
            weight = np.asarray(cv2.GaussianBlur(weight, (0, 0), sigma), np.float32)
        part = self.image[low[1] : high[1], low[0] : high[0]]
        part[:] = part + (colour.astype(np.float32) - part) * cv2.merge([weight] * 3) + 0.5

    def stroke(self, points: ArrayLike, colour: Floats, width: float, above: float = 0.0) -> None:
        """Draw an open line of a width in head units."""
        fixed = self._fixed(self.project(points, above=above))
        thick = max(1, round(width * self.unit))
        cv2.polylines(self.image, [fixed], False, colour.tolist(), thick, cv2.LINE_AA, 4)


def _outline(person: Person) -> Floats:
    """Face outline (n, 2)."""
    t, w = person.traits, person.traits["face_width"]
    right = [(0.5 * w, -0.95), (t["temple_width"] * w, -0.5), (w, 0.0), (t["jaw_width"] * w, 0.6),
             (t["chin_width"] * w, 0.92 * t["chin_y"])]
    left = [(-x, y) for x, y in reversed(right)]
    return smooth([(0.0, -1.05), *right, (0.0, t["chin_y"]), *left])


def _draw_behind(canvas: Canvas, person: Person, clothes: Floats) -> None:
    t, w = person.traits, person.traits["face_width"]
    volume, end = t["hair_volume"], t["hair_end"] * (1 if person.female else 0.3)
    side = w + 0.5 * volume
    right = [(0.55 * w, -1.02 - 0.8 * volume), (side, -0.6), (side + 0.04, min(0.0, end - 0.1)), (side, end)]
    left = [(-x, y) for x, y in reversed(right)]
    canvas.fill(smooth([(0.0, -1.1 - volume), *right, *left]), person.hair * 0.7, depth=-0.25)
    canvas.fill(smooth([(-1.5, 2.6), (-1.35, 1.65), (-0.4, 1.3), (0.4, 1.3), (1.35, 1.65), (1.5, 2.6)], False),
                clothes, depth=-0.3)
    canvas.fill([(-0.38, 0.5), (0.38, 0.5), (0.42, 1.4), (0, 1.55), (-0.42, 1.4)], person.skin * 0.74, depth=-0.25)
    for x in (-w - 0.02, w + 0.02):
        canvas.fill(ellipse(x, 0.08, 0.1, t["ear_size"]), person.skin * 0.88, depth=-0.15)
        canvas.fill(ellipse(x, 0.08, 0.05, t["ear_size"] * 0.6), person.skin * 0.7, depth=-0.15)


def _draw_skin(canvas: Canvas, person: Person, nose_y: float, mouth_y: float) -> None:
    t, skin = person.traits, person.skin
    canvas.fill(_outline(person), skin, depth=0.0)
    for side in (-1, 1):
        canvas.fill(ellipse(side * 0.45, 0.3, 0.2, 0.14), skin * (0.85, 0.8, 1.04), opacity=0.4, soft=0.08)
        canvas.fill(ellipse(side * t["eye_gap"], t["eye_y"] + 0.02, t["eye_width"] * 1.35, 0.13), skin * 0.72,
                    opacity=0.45, soft=0.05)
        bag = [(side * (t["eye_gap"] + dx), t["eye_y"] + dy) for dx, dy in ((-0.11, 0.12), (0, 0.16), (0.12, 0.12))]
        canvas.stroke(smooth(bag, False), skin * (1 - 0.5 * t["eye_bag"]), 0.02)
        fold = [(side * (t["nose_width"] + 0.05), nose_y - 0.05), (side * (t["mouth_width"] + 0.08), mouth_y - 0.03)]
        canvas.stroke(fold, skin * (1 - 0.6 * t["cheek_line"]), 0.02)
    for x, y, radius, darkness in person.marks:
        canvas.fill(ellipse(x, y, radius, radius, count=8), skin * (1 - darkness) + (5, 10, 20))


def _draw_beard(canvas: Canvas, person: Person, nose_y: float, mouth_y: float) -> None:
    t, w = person.traits, person.traits["face_width"]
    if person.beard == "full":
        right = [(0.95 * w, 0.1), (t["jaw_width"] * w, 0.6), (t["chin_width"] * w, 0.95 * t["chin_y"])]
        lower = [*right, (0.0, t["chin_y"] + 0.04), *((-x, y) for x, y in reversed(right))]
        upper = [(-0.7 * w, 0.42), (-t["mouth_width"], mouth_y - 0.08), (0.0, nose_y + 0.1),
                 (t["mouth_width"], mouth_y - 0.08), (0.7 * w, 0.42)]
        canvas.fill(np.vstack([smooth(lower, False), smooth(upper, False)]), person.hair, opacity=0.85, soft=0.02)
    if person.beard == "goatee":
        canvas.fill(ellipse(0, mouth_y + 0.24, 0.2, 0.2), person.hair, opacity=0.85, soft=0.02)
    if person.beard in ("moustache", "goatee"):
        half = t["mouth_width"] * 1.05
        hair = [(-half, mouth_y + 0.03), (-0.5 * half, nose_y + 0.09), (0.0, nose_y + 0.1), (0.5 * half, nose_y + 0.09),
                (half, mouth_y + 0.03), (0.0, mouth_y - 0.05)]
        canvas.fill(smooth(hair), person.hair, opacity=0.9, soft=0.01)


def _draw_nose(canvas: Canvas, person: Person, nose_y: float) -> None:
    t, skin, w, out = person.traits, person.skin, person.traits["nose_width"], person.traits["nose_depth"]
    side = [(t["nose_bridge"], t["eye_y"] - 0.05), (t["nose_bridge"] * 1.2, nose_y - 0.2), (w, nose_y)]
    canvas.fill(np.vstack([smooth(side, False), smooth([(-x, y) for x, y in reversed(side)], False)]),
                skin * 0.86, above=out * 0.5, opacity=0.8, soft=0.02)
    ridge = [(0, t["eye_y"]), (0, nose_y - 0.1)]
    canvas.stroke(ridge, np.minimum(skin * 1.1, 255), t["nose_bridge"] * 0.9, above=out * 0.7)
    canvas.fill(ellipse(0, nose_y, w * 0.6, 0.07), np.minimum(skin * 1.06, 255), above=out, soft=0.01, opacity=0.9)
    for x in (-w, w):
        canvas.fill(ellipse(x * 0.85, nose_y + 0.02, w * 0.3, 0.05), skin * 0.8, above=out * 0.5)
        canvas.fill(ellipse(x * 0.5, nose_y + 0.06, w * 0.24, 0.022), skin * 0.38, above=out * 0.6)


def _draw_eye(canvas: Canvas, person: Person, shot: Shot, side: int) -> None:
    t = person.traits
    x, y, w = side * t["eye_gap"], t["eye_y"], t["eye_width"]
    height = t["eye_height"] * shot.lids
    tilt = -side * t["eye_tilt"]  # positive: the outer corner is the higher one
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    upper = smooth([(-w, 0), (-0.5 * w, -0.9 * height), (0.5 * w, -0.9 * height), (w, 0)], False) @ turn + (x, y)
    lower = smooth([(w, 0), (0.4 * w, 0.8 * height), (-0.4 * w, 0.8 * height), (-w, 0)], False) @ turn + (x, y)
    canvas.fill(np.vstack([upper, lower]), np.array([228.0, 232.0, 236.0]))
    radius = t["iris"]
    cx = x + 0.25 * shot.gaze * (w - radius)
    for r, colour in ((radius, person.iris), (radius * 0.5, np.array([12.0, 12.0, 14.0]))):
        disc = ellipse(cx, y, r, r, count=24)
        local = (disc - (x, y)) @ turn.T
        limit = np.sqrt(np.maximum(0.0, 1 - (local[:, 0] / w) ** 2)) * height
        local[:, 1] = np.clip(local[:, 1], -0.88 * limit, 0.8 * limit)  # the lids hide what is beyond them
        canvas.fill(local @ turn + (x, y), colour)
    canvas.fill(ellipse(cx + 0.02, y - 0.02, 0.012, 0.012, count=8), np.array([250.0, 250.0, 250.0]))
    canvas.stroke(upper, person.hair * 0.25 if person.female else person.skin * 0.35, 0.03)
    canvas.stroke(upper - (0, t["lid_fold"]), person.skin * 0.6, 0.012)
    canvas.stroke(lower, person.skin * 0.65, 0.012)


def _draw_brow(canvas: Canvas, person: Person, shot: Shot, side: int) -> None:
    t = person.traits
    half, thick, tilt = t["brow_length"], t["brow_thickness"], t["brow_tilt"]
    y = t["eye_y"] - t["brow_lift"] - 0.06 * shot.brow_raise
    along = np.array([-1.0, -0.4, 0.3, 1.0])
    middle = -tilt * along * half - t["brow_arch"] * (1 - along**2)
    thickness = thick * np.array([0.9, 1.0, 0.8, 0.15])
    x = side * (t["eye_gap"] + along * half)
    top = smooth(np.column_stack([x, y + middle - thickness / 2]), False)
    bottom = smooth(np.column_stack([x, y + middle + thickness / 2]), False)
    colour = person.skin * (1 - t["brow_darkness"]) + person.hair * 0.6 * t["brow_darkness"]
    canvas.fill(np.vstack([top, bottom[::-1]]), colour, soft=0.008, opacity=0.95)


def _draw_mouth(canvas: Canvas, person: Person, shot: Shot, corners: Floats) -> None:
    t = person.traits
    (left, y), (right, _) = corners
    middle = y + 0.05 * shot.smile + t["mouth_bow"] * 0.5  # a smile lifts the corners over the middle
    gap = 0.16 * shot.mouth_open
    arc = [(left, y), (0.5 * left, middle - gap * 0.2), (0, middle - gap * 0.25), (0.5 * right, middle - gap * 0.2)]
    low = [(right, y), (0.5 * right, middle + gap * 0.7), (0, middle + gap), (0.5 * left, middle + gap * 0.7)]
    inner_top, inner_low = smooth([*arc, (right, y)], False), smooth([*low, (left, y)], False)
    up, down = t["upper_lip"], t["lower_lip"]
    top = smooth([(left, y), (0.4 * left, middle - gap * 0.2 - up), (0, middle - gap * 0.25 - up * 0.75),
                  (0.4 * right, middle - gap * 0.2 - up), (right, y)], False)
    bottom = smooth([(right, y), (0.5 * right, middle + gap * 0.7 + down * 0.8), (0, middle + gap + down),
                     (0.5 * left, middle + gap * 0.7 + down * 0.8), (left, y)], False)
    canvas.fill(np.vstack([top, inner_top[::-1]]), person.lips * 0.9)
    canvas.fill(np.vstack([bottom, inner_low[::-1]]), person.lips)
    canvas.fill(np.vstack([inner_top, inner_low]), np.array([30.0, 25.0, 60.0]))
    if gap > 0.03:
        teeth = np.vstack([inner_top, (inner_top * (0.9, 1) + (0, gap * 0.4))[::-1]])
        canvas.fill(teeth, np.array([215.0, 228.0, 232.0]))
    canvas.stroke(inner_top, person.lips * 0.45, 0.015)


def _draw_hair(canvas: Canvas, person: Person) -> None:
    t, w = person.traits, person.traits["face_width"]
    volume, part, line, edge = t["hair_volume"], t["parting"], t["hairline"], t["temple_width"] * w
    right = [(w + 0.02, t["sideburn"]), (w + 0.06 + 0.3 * volume, -0.5), (0.62 * w, -1.0 - 0.7 * volume)]
    outer = smooth([*right, (0.0, -1.08 - volume), *((-x, y) for x, y in reversed(right))], False)
    left = [(-w, t["sideburn"]), (-0.9 * edge, -0.38), (-0.55 * edge, line)]
    top = (part * w, line - t["parting_lift"])
    inner = smooth([*left, top, *((-x, y) for x, y in reversed(left))], False)
    canvas.fill(np.vstack([outer, inner]), person.hair, depth=0.12)
    for along in (0.2, 0.5, 0.8):  # strands run from the parting outwards
        target = outer[int(along * (len(outer) - 1))]
        strand = [(part * w, line - t["parting_lift"] - 0.08), (0.5 * (part * w + target[0]), -0.92), target * 0.95]
        canvas.stroke(smooth(strand, False), np.minimum(person.hair * 1.35 + 8, 255), 0.02)


def _draw_cover(canvas: Canvas, person: Person, shot: Shot, colour: Floats) -> None:
    t = person.traits
    dark, radius = np.array([25.0, 22.0, 22.0]), 0.22 if shot.cover == "sunglasses" else person.glasses
    if radius:
        for side in (-1, 1):
            lens = ellipse(side * t["eye_gap"], t["eye_y"] + 0.03, min(radius * 1.1, t["eye_gap"] - 0.03), radius * 0.9)
            if shot.cover == "sunglasses":
                canvas.fill(lens, dark, above=0.08)
            canvas.stroke(np.vstack([lens, lens[:1]]), dark, 0.028, above=0.08)
            canvas.stroke([(side * (t["eye_gap"] + radius), t["eye_y"]), (side * t["face_width"], -0.05)], dark, 0.028)
        canvas.stroke([(-0.08, t["eye_y"]), (0.08, t["eye_y"])], dark, 0.028, above=0.1)
    if shot.cover == "hat":
        w = t["face_width"] + 0.16
        crown = [(-w, -0.5), (-0.9 * w, -1.15), (0, -1.45), (0.9 * w, -1.15), (w, -0.5), (0, -0.62)]
        canvas.fill(smooth(crown), colour, 0.15)
        canvas.fill(smooth([(-w, -0.5), (0, -0.68), (w, -0.5), (0, -0.52)]), colour * 0.6, depth=0.4)
    if shot.cover == "strand":
        x = t["parting"]
        lock = [(x - 0.08, -0.75), (x + 0.06, -0.78), (x + 0.2, -0.2), (x + 0.26, 0.3), (x + 0.1, -0.2)]
        canvas.fill(smooth(lock), person.hair, opacity=0.95)


def draw_face(person: Person, shot: Shot, background: Pixels, clothes: Floats) -> tuple[Pixels, Floats, Floats]:
    """Draw a person, evenly lit.

    background: (s * SUPERSAMPLING, s * SUPERSAMPLING, 3), drawn over. Returns the image (s, s, 3), the landmarks
    (5, 2) as (x, y) in pixels (eyes, tip of the nose, corners of the mouth, left before right as seen) and the
    outline (n, 2).
    """
    t, canvas = person.traits, Canvas(shot, background)
    nose_y = t["eye_y"] + t["nose_length"]
    mouth_y = nose_y + t["mouth_drop"] * (1 - 0.08 * shot.smile)
    half = t["mouth_width"] * (1 + 0.22 * shot.smile - 0.12 * shot.mouth_open)
    corners = np.array([[-half, mouth_y - 0.03 * shot.smile], [half, mouth_y - 0.03 * shot.smile]])
    eyes = [(-t["eye_gap"], t["eye_y"]), (t["eye_gap"], t["eye_y"])]
    _draw_behind(canvas, person, clothes)
    _draw_skin(canvas, person, nose_y, mouth_y)
    _draw_beard(canvas, person, nose_y, mouth_y)
    for side in (-1, 1):
        _draw_eye(canvas, person, shot, side)
        _draw_brow(canvas, person, shot, side)
    _draw_mouth(canvas, person, shot, corners)
    _draw_nose(canvas, person, nose_y)
    _draw_hair(canvas, person)
    _draw_cover(canvas, person, shot, clothes)
    tip = canvas.project([(0.0, nose_y)], above=t["nose_depth"])
    landmarks = np.vstack([canvas.project(eyes), tip, canvas.project(corners)])
    image = cv2.resize(canvas.image, None, fx=1 / SUPERSAMPLING, fy=1 / SUPERSAMPLING, interpolation=cv2.INTER_AREA)
    return np.asarray(image, np.uint8), landmarks, canvas.project(_outline(person), depth=0.0)
