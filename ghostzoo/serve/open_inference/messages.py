"""The protocol's gRPC messages, made from the descriptor beside this file.

They live in a pool of their own: the generated modules of two clients in one process would collide over their names,
and generated code is bound to versions of protobuf, which a descriptor is not.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"


@cache
def _pool() -> Any:
    data = (files(__package__) / "open_inference.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return pool


@cache
def message(name: str) -> Any:
    """Return the class of a message, such as ``ModelInferRequest``."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


def methods() -> dict[str, tuple[Any, Any]]:
    """Return the classes of request and answer for each method of the service."""
    return {
        method.name: (message(method.input_type.name), message(method.output_type.name))
        for method in _pool().FindServiceByName(SERVICE).methods
    }
