"""Imports of the server that ranks are forked from, done once: most of the second that a small job
takes goes into DALI's rewriting of the graph's Python, which a fork inherits."""

from fr.data.augmentation import EFFECTS
from fr.data.graph import face_graph
from fr.preprocessing import Preprocessing

face_graph(
    source=iter([]),
    preprocessing=Preprocessing((32, 32)),
    dali_device="cpu",
    effects=tuple(EFFECTS),
    batch_size=1,
    num_threads=1,
    device_id=None,
)
