"""ONNX: export of a backbone, and inference with ONNX files."""
