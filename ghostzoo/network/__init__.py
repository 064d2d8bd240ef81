"""GhostNet itself: the architecture as data, its ONNX graph, and a plain forward pass to hold it against."""
