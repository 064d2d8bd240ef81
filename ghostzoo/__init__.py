"""GhostNet image classifiers as proven ONNX models."""

__version__ = "0.1.0"
