"""The task API: images in, classes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ..errors import ImageError
from ..predictions import Choice, Postprocessing
from .answers import ApiRoute, json_text, json_text_response
from .body import FEW_VALUES, Body, body_of, read_parameters
from .documentation import (
    SMALL_GIF,
    accept_language,
    failures,
    image_bodies,
    json_body,
    named_answer,
    query,
    with_body,
)
from .memory import Hold
from .queueing import Answer, Source
from .request_errors import RequestError, bad_request, too_large
from .schemas import (
    CALIBRATED,
    COVERAGE,
    GROUP,
    MAX_TOP_K,
    MIN_SCORE,
    TOP_K,
    UNKNOWN_BELOW,
    ClassifyOptions,
    ClassifyRequest,
    ClassifyResponse,
    ErrorResponse,
    ImageRequest,
    decode_base64,
    decoding_bytes,
)

router = APIRouter(tags=["classify"], route_class=ApiRoute)

_CLASSES_HERE = 500
"""Classes that are written on the event loop; more are left to a thread."""
VALUES_OF_IMAGE = 100
"""In JSON, of each image."""


_EXAMPLES = {
    "base64": {"value": {"images": [{"base64": SMALL_GIF, "name": "red.gif"}], "top_k": 3}},
    "url": {"summary": "Needs --allow-urls.", "value": {"images": [{"url": "https://example.com/cat.jpg"}]}},
}


@router.post(
    "/v1/classify",
    summary="Classify images",
    response_model=ClassifyResponse,
    responses=failures(400, 401, 403, 404, 408, 413, 415, 503, 504)
    | named_answer()
    | {422: {"model": ClassifyResponse | ErrorResponse, "description": "No image could be read."}},
    openapi_extra=with_body(
        image_bodies() | json_body(ClassifyRequest, examples=_EXAMPLES),
        query("top_k", f"{TOP_K} Here, in a form's field, or in the JSON body, as all of these."),
        query("min_score", MIN_SCORE),
        query("calibrated", CALIBRATED),
        query("coverage", COVERAGE),
        query("unknown_below", UNKNOWN_BELOW),
        query("group", GROUP),
        accept_language(),
        query("model", "By default the first model of the server."),
        query("engine", "By default the first engine of the server."),
    ),
)
async def classify(request: Request) -> Response:
    """Send one or more files as a multipart form, one image as the raw body, or JSON with base64 or URLs.

    Each image has its result or its own error, in the order of the request. The status is 200 if at least one image
    could be read, else 422.
    """
    with body_of(request) as body:
        service, started = body.service, body.info.started
        names, sources, options = await _read_call(body)
        instance = service.repository.get(options.model).instance(options.engine)
        postprocessing = instance.postprocessing(accepted_languages(request))
        choice = options.choice()
        postprocessing.check(choice)
        outcomes = await service.classify(instance, sources, body.info)
        sources.clear()  # from here on they are not counted
    top_k = MAX_TOP_K if options.coverage is not None else options.top_k or min(postprocessing.top_k, MAX_TOP_K)
    choice = replace(choice, top_k=top_k)

    def answer() -> Response:
        # One image at a time: no other thread runs while a text is made.
        results = (
            json_text({"name": name} | _result(postprocessing, outcome, choice))
            for name, outcome in zip(names, outcomes, strict=True)
        )
        images = ", ".join(results)
        head = json_text({"model": instance.model, "engine": instance.engine})
        total = _ms(time.perf_counter() - started)
        text = f'{head[:-1]}, "images": [{images}], "total_ms": {total}}}'
        status = 422 if all(isinstance(each, ImageError) for each in outcomes) else 200
        return json_text_response(text, status, language_headers(postprocessing))

    if len(outcomes) * top_k <= _CLASSES_HERE:
        return answer()
    return await service.aside(answer)


async def _read_call(body: Body) -> tuple[list[str], list[Source], ClassifyOptions]:
    """Return the images' names, the images, and what is wanted of them, in whichever form they were sent."""
    sent = await read_images(body)
    if sent is None:
        return await _from_json(body)
    parameters, names, sources = sent
    # In a query or a form, an empty name is none.
    given = {name: text for name, text in parameters.items() if text or name not in ("model", "engine")}
    return names, sources, read_parameters(ClassifyOptions, given)


async def read_images(body: Body) -> tuple[Mapping[str, str], list[str], list[Source]] | None:
    """Return parameters, names and encoded images of a form or a raw body; ``None`` for JSON, which is not yet read.

    Raises:
        RequestError: there is no image, or the body is of another kind.
    """
    request = body.request
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query: Mapping[str, str] = request.query_params if request.scope["query_string"] else {}
    if kind == "multipart/form-data":
        fields, files = await body.form()
        if not files:
            raise bad_request("The form has no file; send images as its files.")
        return {**query, **fields}, [name for name, _ in files], [data for _, data in files]
    if kind in ("application/json", "text/json"):
        return None
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        image = await body.read()
        if not image:
            raise bad_request("The body is empty; send an image.")
        return query, [query.get("name") or "image"], [image]
    raise RequestError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"Content-Type {kind[:80]!r} is not supported; send multipart/form-data, image/*, application/octet-stream or "
        "application/json.",
    )


async def _from_json(body: Body) -> tuple[list[str], list[Source], ClassifyOptions]:
    max_images = body.service.options.limits.max_images
    content = await body.json(ClassifyRequest, values=FEW_VALUES + VALUES_OF_IMAGE * max_images)
    if len(content.images) > max_images:
        raise too_large(f"More than {max_images} images were sent in one call; send them in several.")
    body.hold(decoding_bytes(image.base64 or "" for image in content.images))
    count = running_total(body)
    try:
        async with asyncio.TaskGroup() as group:  # which ends the other downloads where one ends the call
            tasks = [group.create_task(read_source(image, body, count)) for image in content.images]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    sources = [task.result() for task in tasks]
    names = [image.name or f"image-{index}" for index, image in enumerate(content.images)]
    return names, sources, content


def running_total(body: Body) -> Hold:
    """Return what counts the images of one call as they come, fetched or decoded: together they are no larger than a
    body may be."""
    left = body.service.options.limits.max_body_bytes

    def count(size: int) -> None:
        nonlocal left
        left -= size
        if left < 0:
            raise too_large("The images of this call are too large together; send them in several.")
        body.hold(size)

    return count


async def read_source(image: ImageRequest, body: Body, count: Hold) -> Source:
    """Decode or fetch an image of a JSON body, or say why not; ``count`` is told of its bytes."""
    name = image.name or "image"
    if (image.base64 is None) == (image.url is None):
        return ImageError(name, "it must have either base64 or url")
    if image.url is not None:
        return await fetch(image.url, body, count)
    try:
        text = image.base64 or ""
        data = await body.aside(len(text), decode_base64, text)
    except RequestError as error:
        return ImageError(name, str(error))
    count(len(data))
    return data


async def fetch(url: str, body: Body, count: Hold) -> Source:
    """Fetch an image by its URL, or say why not; ``count`` is told of its bytes as they come."""
    if not body.service.options.allow_urls:
        return ImageError("image", "this server fetches no URLs (--allow-urls is off); send the image itself")
    return await body.service.fetch(url, body.info, count)


def accepted_languages(request: Request) -> str:
    """What a client says of the languages that it likes."""
    return ", ".join(request.headers.getlist("accept-language"))


def language_headers(postprocessing: Postprocessing) -> dict[str, str]:
    """Say of an answer what language its labels are in, if they are not the model's own, and that it was chosen."""
    language = postprocessing.language
    return {"vary": "Accept-Language"} | ({} if language is None else {"content-language": language})


def _result(postprocessing: Postprocessing, outcome: Answer | ImageError, choice: Choice) -> dict[str, Any]:
    if isinstance(outcome, ImageError):
        return {"error": outcome.reason}
    (found,) = postprocessing.predictions(outcome.logits[None], choice)
    stages = outcome.stages
    return {
        "predictions": [each.to_dict() for each in found],
        "timing": {
            "queue_ms": _ms(stages.queue),
            "decode_ms": _ms(stages.decode),
            "batch_ms": _ms(stages.batch),
            "inference_ms": _ms(stages.inference),
            "batch_size": stages.batch_size,
        },
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
