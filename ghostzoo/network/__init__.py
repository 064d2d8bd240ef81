"""GhostNet itself: the architecture as data, its ONNX graph, and a plain forward pass as its reference."""
