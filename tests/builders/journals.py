"""Builders of journals that several test files use."""

import json
from dataclasses import asdict

from tools.dataset.face_journal import Found

SETTINGS = {"photographs": "/data", "thresholds": (0.6, 0.7)}
GOOD = asdict(Found("a.jpg", 1, [1.0, 2.0, 3.0, 4.0], [float(number) for number in range(10)], 0.75))
JOURNAL = "".join(
    json.dumps(line) + "\n"
    for line in (SETTINGS, GOOD, asdict(Found("b/ç.jpg", 0, [], [])), GOOD | {"name": "c/d.png", "faces": 12})
).encode()
