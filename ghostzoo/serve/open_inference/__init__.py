"""The Open Inference Protocol, version 2, over REST and gRPC: tensors, what they mean here, and both carriers."""
