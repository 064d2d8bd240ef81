"""The protocol over gRPC."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from ...errors import GhostZooError, OptionError
from ..access import REQUEST_ID, key_matches, log_access, request_id
from ..failures import RequestError, as_request_error, bad_request
from ..service import Exchange, Service
from .inference import find_model, find_spec, infer, model_metadata, server_metadata, with_timeout
from .messages import SERVICE, message, methods
from .tensors import BYTES, FP32, InputTensor, OutputTensor, RequestedOutput, count_elements, from_bytes, from_values

_logger = logging.getLogger(__name__)

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_PROBES = frozenset({"ServerLive", "ServerReady"})
"""These need no key."""

Method = Callable[[Any, Exchange], Awaitable[Any]]


def grpc_server(service: Service) -> tuple[Any, int]:
    """Return a server that is not yet started, and the port that it has bound.

    Raises:
        OptionError: the address cannot be had.
    """
    options = service.options
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", options.limits.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", options.limits.max_header_bytes),
            ("grpc.absolute_max_metadata_size", options.limits.max_header_bytes),
            ("grpc.so_reuseport", 0),  # a second server on the same port is a mistake, not a share of the load
        ],
        maximum_concurrent_rpcs=options.queue_size,
    )
    server.add_generic_rpc_handlers((_handlers(InferenceService(service)),))
    host = f"[{options.host}]" if ":" in options.host else options.host
    try:
        port = server.add_insecure_port(f"{host}:{options.grpc_port}")
    except RuntimeError as error:
        raise OptionError(
            f"Cannot listen on {options.host}, port {options.grpc_port}: it is taken or no address of this machine; "
            "choose another --grpc-port, or use --no-grpc."
        ) from error
    return server, port


class InferenceService:
    """The methods of the service, by their names."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def ServerLive(self, _: Any, __: Exchange) -> Any:  # noqa: N802
        return message("ServerLiveResponse")(live=self.service.live)

    async def ServerReady(self, _: Any, __: Exchange) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=self.service.ready)

    async def ModelReady(self, request: Any, _: Exchange) -> Any:  # noqa: N802
        try:
            find_model(self.service, request.name, request.version)
        except RequestError:
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=True)

    async def ServerMetadata(self, _: Any, __: Exchange) -> Any:  # noqa: N802
        return message("ServerMetadataResponse")(**server_metadata())

    async def ModelMetadata(self, request: Any, _: Exchange) -> Any:  # noqa: N802
        return message("ModelMetadataResponse")(
            **model_metadata(find_model(self.service, request.name, request.version))
        )

    async def ModelInfer(self, request: Any, exchange: Exchange) -> Any:  # noqa: N802
        model = find_model(self.service, request.model_name, request.model_version)
        raw = list(request.raw_input_contents)
        if raw and len(raw) != len(request.inputs):
            raise bad_request(f"{len(raw)} raw contents were sent for {len(request.inputs)} inputs; send one for each.")
        inputs = []
        for index, tensor in enumerate(request.inputs[:2]):
            spec = find_spec(model, tensor.name)
            shape = list(tensor.shape)
            elements = count_elements(spec, tensor.datatype, shape, self.service.options.limits.max_images)
            if raw:
                if tensor.HasField("contents"):
                    raise bad_request(f"{spec.name} has both contents and raw contents; send one of them.")
                inputs.append(from_bytes(spec, shape, elements, raw[index]))
            else:
                inputs.append(_from_contents(spec, shape, elements, tensor.contents))
        requested = [_requested(output) for output in request.outputs]
        exchange = with_timeout(exchange, _parameters(request.parameters))
        outputs = await infer(self.service, model, inputs, requested, exchange)
        answer = message("ModelInferResponse")(model_name=model.name, model_version="1", id=request.id)
        for output in outputs:
            _add_output(answer, output, bool(raw))
        return answer

    async def RepositoryIndex(self, request: Any, _: Exchange) -> Any:  # noqa: N802
        rows = self.service.repository.index()
        return message("RepositoryIndexResponse")(
            models=[row for row in rows if row["state"] == "READY" or not request.ready]
        )

    async def RepositoryModelLoad(self, request: Any, _: Exchange) -> Any:  # noqa: N802
        if request.parameters:
            raise bad_request(f"Loading takes no parameters here; leave out {', '.join(request.parameters)[:200]}.")
        name = request.model_name or request.repository_name
        await self.service.repository.load(name)
        return message("RepositoryModelLoadResponse")(model_name=name, is_loaded=True)

    async def RepositoryModelUnload(self, request: Any, _: Exchange) -> Any:  # noqa: N802
        name = request.model_name or request.repository_name
        await self.service.repository.unload(name)
        return message("RepositoryModelUnloadResponse")(model_name=name, is_unloaded=True)


def _handlers(methods_of: InferenceService) -> Any:
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                _guarded(methods_of.service, name, getattr(methods_of, name)),
                request_deserializer=request_class.FromString,
                response_serializer=answer_class.SerializeToString,
            )
            for name, (request_class, answer_class) in methods().items()
        },
    )


def _guarded(service: Service, name: str, method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
    """Around each call: an id, a deadline, the API key, a line in the log, the metrics, errors as statuses."""

    async def call(request: Any, context: Any) -> Any:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        left = context.time_remaining()
        seconds = service.options.deadline if left is None else min(service.options.deadline, left)
        deadline = asyncio.get_running_loop().time() + seconds
        exchange = Exchange(request_id(metadata.get(REQUEST_ID)), time.perf_counter(), deadline)
        status, details = grpc.StatusCode.OK, ""
        service.metrics.on_request("grpc")
        try:
            await context.send_initial_metadata(((REQUEST_ID, exchange.request_id),))
            _check_key(service, name, metadata)
            with service.memory.held(request.ByteSize()):
                return await method(request, exchange)
        except (RequestError, GhostZooError) as error:
            known = as_request_error(error)
            status, details = _CODES.get(known.status, grpc.StatusCode.INTERNAL), str(known)
        except asyncio.CancelledError:
            status = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            fields = {"request_id": exchange.request_id}
            _logger.error("A request failed.", exc_info=error, extra={"fields": fields})
            status, details = grpc.StatusCode.INTERNAL, str(as_request_error(error))
        finally:
            log_access(service, "grpc", name, status.name, exchange, client=context.peer())
        await context.abort(status, details)

    return call


def _check_key(service: Service, name: str, metadata: dict[str, str]) -> None:
    key = service.options.api_key
    if key is None or name in _PROBES:
        return
    if not key_matches(key, metadata.get("authorization"), metadata.get("x-api-key")):
        raise RequestError(401, "This server wants its API key: send metadata 'authorization: Bearer KEY'.")


def _from_contents(spec: Any, shape: list[int], elements: int, contents: Any) -> InputTensor:
    values = {BYTES: contents.bytes_contents, FP32: contents.fp32_contents}[spec.datatype]
    return from_values(spec, shape, elements, values)


def _parameters(parameters: Any) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in chosen.items() if choice is not None}


def _requested(output: Any) -> RequestedOutput:
    count = _parameters(output.parameters).get("classification", 0)
    if not isinstance(count, int) or isinstance(count, bool):
        raise bad_request("classification takes a number of classes, for logits or scores.")
    return RequestedOutput(output.name, count)


def _add_output(answer: Any, output: OutputTensor, raw: bool) -> None:
    tensor = answer.outputs.add(name=output.name, datatype=output.datatype, shape=output.values.shape)
    if raw:
        answer.raw_output_contents.append(output.to_bytes())
    elif output.datatype == FP32:
        tensor.contents.fp32_contents.extend(output.values.ravel().tolist())
    else:
        tensor.contents.bytes_contents.extend(output.encoded())
