"""Builders of onnx files that several test files use."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper


def foreign(path: Path, batch: int | str = "n", names: tuple[str, str] = ("x", "y"), **parts: Any) -> Path:
    """A network of others, no metadata: the coarse pixels of each colour, by one strided convolution."""
    shape = parts.get("shape", [batch, 3, 32, 48])
    node = helper.make_node("Conv", [names[0], "weight"], ["map"], strides=[8, 8])
    flat = helper.make_node("Flatten", ["map"], [names[1]])
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[range(3), range(3)] = 1
    inputs = [helper.make_tensor_value_info(names[0], parts.get("kind", TensorProto.FLOAT), shape)]
    outputs = [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [batch, None])]
    graph = helper.make_graph(
        [node, flat], "g", inputs + parts.get("inputs", []), outputs + parts.get("outputs", []),
        [onnx.numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, parts.get("metadata", {}))
    onnx.save(model, path)
    return path
