"""The messages of both gRPC services, made from the descriptors beside this file.

They live in a pool of their own: the generated modules of two clients in one process would collide over their names,
and generated code is bound to versions of protobuf, which a descriptor is not.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"

_DESCRIPTORS = ("open_inference.binpb", "health.binpb")


@cache
def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    for name in _DESCRIPTORS:
        data = (files(__package__) / name).read_bytes()
        for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
            pool.Add(file)
    return pool


@cache
def message(name: str, package: str = "inference") -> Any:
    """Return the class of a message, such as ``ModelInferRequest``."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{package}.{name}"))


@cache
def health_message(name: str) -> Any:
    """Return the class of a message of the health service, such as ``HealthCheckRequest``."""
    return message(name, HEALTH_SERVICE.rpartition(".")[0])


def request_class(service: str, method: str) -> Any:
    """Return the class of a method's requests."""
    return message_factory.GetMessageClass(_pool().FindServiceByName(service).FindMethodByName(method).input_type)
