"""The protocol over gRPC."""

from __future__ import annotations

from functools import partial
from typing import Any

import grpc

from ...errors import OptionError
from ..repository import ServedModel
from ..request_errors import RequestError, bad_request
from ..service import RequestInfo, Service
from .calls import UNREAD_BYTES, Calls, KeyInterceptor, Method
from .health import Health
from .inference import (
    find_model,
    find_spec,
    infer,
    model_config,
    model_metadata,
    model_statistics,
    only_input,
    server_metadata,
    with_timeout,
)
from .messages import HEALTH_SERVICE, SERVICE, message, request_class
from .tensors import (
    BYTES,
    FP32,
    OutputTensor,
    RequestedOutput,
    Values,
    count_elements,
    from_bytes,
    from_values,
)
from .wire import InferMessage, parse, parse_infer

_ABOUT_MODELS = (
    *("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"),
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
)


def grpc_server(service: Service) -> tuple[Any, int]:
    """Return a server that is not yet started, and the port that it has bound.

    Raises:
        OptionError: the address cannot be had.
    """
    options = service.options
    server = grpc.aio.server(
        interceptors=[KeyInterceptor(service)],
        options=[
            ("grpc.max_receive_message_length", options.limits.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", options.limits.max_header_bytes),
            ("grpc.absolute_max_metadata_size", options.limits.max_header_bytes),
            # What is not asked for is not taken: see ``calls``. The window must not grow with the client's speed.
            ("grpc.http2.lookahead_bytes", UNREAD_BYTES),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.max_concurrent_streams", options.queue_size),
            ("grpc.per_message_decompression", 0),  # some versions do it before they look at the size
            ("grpc.so_reuseport", 0),  # a second server on the same port is a mistake, not a share of the load
        ],
        maximum_concurrent_rpcs=options.queue_size,
    )
    server.add_generic_rpc_handlers(_handlers(service))
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

    async def ServerLive(self, _: Any, __: RequestInfo) -> Any:  # noqa: N802
        return message("ServerLiveResponse")(live=self.service.live)

    async def ServerReady(self, _: Any, __: RequestInfo) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=self.service.ready)

    async def ModelReady(self, request: Any, _: RequestInfo) -> Any:  # noqa: N802
        try:
            find_model(self.service, request.name, request.version)
        except RequestError:
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=True)

    async def ServerMetadata(self, _: Any, __: RequestInfo) -> Any:  # noqa: N802
        return message("ServerMetadataResponse")(**server_metadata())

    async def ModelMetadata(self, request: Any, _: RequestInfo) -> Any:  # noqa: N802
        return message("ModelMetadataResponse")(
            **model_metadata(find_model(self.service, request.name, request.version))
        )

    async def ModelConfig(self, request: Any, _: RequestInfo) -> Any:  # noqa: N802
        model = find_model(self.service, request.name, request.version)
        config = model_config(model, self.service.options.limits.max_images)
        return message("ModelConfigResponse")(config=config)

    async def ModelStatistics(self, request: Any, _: RequestInfo) -> Any:  # noqa: N802
        names = [request.name] if request.name else self.service.repository.loaded
        models = [find_model(self.service, name, request.version) for name in names]
        stats = [model_statistics(self.service, model) for model in models]
        return message("ModelStatisticsResponse")(model_stats=stats)

    async def ModelInfer(self, given: InferMessage, request_info: RequestInfo) -> Any:  # noqa: N802
        request, raw = given.request, bool(given.raw)
        model = find_model(self.service, request.model_name, request.model_version)
        values = self._input(model, given)
        del given  # and with it the message, of which only what the inputs still use is left
        requested = [_requested(output) for output in request.outputs]
        request_info = with_timeout(request_info, _chosen(request.parameters, "timeout"))
        outputs = await infer(self.service, model, values, requested, request_info)
        answer = message("ModelInferResponse")(model_name=model.name, model_version="1", id=request.id)
        for output in outputs:
            _add_output(answer, output, raw)
        return answer

    def _input(self, model: ServedModel, given: InferMessage) -> Values:
        if given.raw and len(given.raw) != len(given.inputs):
            raise bad_request(
                f"{len(given.raw)} raw contents were sent for {len(given.inputs)} inputs; send one for each."
            )
        contents = only_input(model, given.inputs)
        tensor = contents.tensor
        spec = find_spec(model, tensor.name)
        shape = list(tensor.shape)
        elements = count_elements(spec, tensor.datatype, shape, self.service.options.limits.max_images)
        if not given.raw:
            is_text = spec.datatype == BYTES
            values = [bytes(image) for image in contents.images] if is_text else contents.floats()
            return from_values(spec, shape, elements, values)
        if contents.present:
            raise bad_request(f"{spec.name} has both contents and raw contents; send one of them.")
        return from_bytes(spec, shape, elements, given.raw[0])

    async def RepositoryIndex(self, request: Any, _: RequestInfo) -> Any:  # noqa: N802
        models = self.service.repository.index(only_ready=request.ready)
        return message("RepositoryIndexResponse")(models=models)

    async def RepositoryModelLoad(self, request: Any, _: RequestInfo) -> Any:  # noqa: N802
        name = request.model_name or request.repository_name
        await self.service.repository.load(name, request.parameters)
        return message("RepositoryModelLoadResponse")(model_name=name, is_loaded=True)

    async def RepositoryModelUnload(self, request: Any, _: RequestInfo) -> Any:  # noqa: N802
        name = request.model_name or request.repository_name
        await self.service.repository.unload(name)
        return message("RepositoryModelUnloadResponse")(model_name=name, is_unloaded=True)


def _handlers(service: Service) -> tuple[Any, ...]:
    calls, inference, health = Calls(service), InferenceService(service), Health(service)
    parse_inference = partial(parse_infer, max_images=service.options.limits.max_images)
    check = partial(parse, request_class(HEALTH_SERVICE, "Check"))
    methods = (
        Method("ServerLive", None, is_probe=True),
        Method("ServerReady", None, is_probe=True),
        Method("ServerMetadata", None),
        Method("ModelInfer", parse_inference),
        *(Method(name, partial(parse, request_class(SERVICE, name))) for name in _ABOUT_MODELS),
    )
    return (
        grpc.method_handlers_generic_handler(
            SERVICE, {method.name: calls.unary(method, getattr(inference, method.name)) for method in methods}
        ),
        grpc.method_handlers_generic_handler(
            HEALTH_SERVICE,
            {
                "Check": calls.unary(Method("HealthCheck", check, is_probe=True), health.Check),
                "List": calls.unary(Method("HealthList", None, is_probe=True), health.List),
                "Watch": calls.streaming(Method("HealthWatch", check, is_probe=True), health.Watch),
            },
        ),
    )


def _chosen(parameters: Any, name: str) -> dict[str, Any]:
    """Return the parameter of that name, if there is one; a message may have thousands of others."""
    choice = parameters[name].WhichOneof("parameter_choice") if name in parameters else None
    return {} if choice is None else {name: getattr(parameters[name], choice)}


def _requested(output: Any) -> RequestedOutput:
    count = _chosen(output.parameters, "classification").get("classification", 0)
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
