"""Map from names of parameters and buffers in snapshots of face_recognition.pytorch to the names here.

For each model there are rules for `re.subn(regex, replacement, key)`, after `module.` is removed. The first match
counts; a key without a match keeps its name. `fc_angular.weight`, the head, has no counterpart in a backbone.

The width of a `mobilenet` follows from the shapes; file names may be wrong: the one published as 2x has width 1.5.
"""

Rules = list[tuple[str, str]]

_STEM: Rules = [
    (r"^features\.0\.0\.", "input_norm."),
    *[(rf"^features\.0\.{n + 1}\.", f"stem.{n}.") for n in range(3)],  # convolution, batch norm, PReLU
    *[(rf"^features\.{n}\.", f"stem.{n + 2}.") for n in range(1, 4)],  # depthwise convolution, batch norm, PReLU
]
_BLOCK_PARTS: Rules = [(r"8\.conv1", "8.gate.1"), (r"8\.relu", "8.gate.2"), (r"8\.conv2", "8.gate.3"), (r"(\d)", r"\1")]
_BLOCKS: Rules = [
    (rf"^features\.{n + 4}\.inv_block\.{theirs}\.", rf"blocks.{n}.block.{ours}.")
    for n in range(15)
    for theirs, ours in _BLOCK_PARTS
]
_HEAD: Rules = [
    (r"^features\.19\.", "last."),
    (r"^dw_pool\.", "pool.0."),
    (r"^dw_bn\.", "pool.1."),
    (r"^conv1_extra\.", "embedding."),
]
_MOBILENET = _STEM + _BLOCKS + _HEAD

KEYS_001: dict[str, Rules] = {
    "mobilenet": _MOBILENET,
    "mobilenet_1_5x": _MOBILENET,
    "mobilenet_2x": _MOBILENET,
    "rmnet": [],
    "shufflenetv2": [],
    "resnet": [],
    "se_resnet": [],
    "se_resnet50": [],
    "se_resnet101": [],
    "se_resnet152": [],
}
