"""ONNX: export of a backbone, and an ONNX file as a network."""
