"""The same tokens from several engines: PyTorch, ONNX Runtime, OpenVINO."""
