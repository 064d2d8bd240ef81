"""Explanations: an image in, a map of where a class's logit comes from out."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ..errors import EngineUnavailableError, ImageError
from .answers import ApiRoute, json_response
from .body import FEW_VALUES, Body, body_of
from .classify import (
    VALUES_OF_IMAGE,
    accepted_languages,
    language_headers,
    read_images,
    read_source,
    running_total,
)
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
from .queueing import Source
from .request_errors import bad_request, unprocessable
from .schemas import AGAINST, INDEX, ExplainRequest, ExplainResponse, decoding_bytes

router = APIRouter(tags=["classify"], route_class=ApiRoute)

_EXAMPLE = {"image": {"base64": SMALL_GIF}, "index": 0, "against": 1}


@dataclass(frozen=True)
class _Call:
    """What a client asks for, in whichever form it was sent."""

    source: Source
    index: int | str | None
    against: int | str | None
    model: str | None
    engine: str | None


@router.post(
    "/v1/explain",
    summary="Show where in an image a class comes from",
    response_model=ExplainResponse,
    responses=failures(400, 401, 403, 404, 408, 413, 415, 422, 503, 504) | named_answer(),
    openapi_extra=with_body(
        image_bodies(explained=True) | json_body(ExplainRequest, example=_EXAMPLE),
        query("index", f"{INDEX} Here, in a form's field, or in the JSON body, as all of these."),
        query("against", AGAINST),
        accept_language(),
        query("model", "By default the first model of the server."),
        query("engine", "By default the first engine of the server."),
    ),
)
async def explain(request: Request) -> Response:
    """Send one image, as a multipart form, as the raw body, or as JSON with base64 or a URL.

    The map is exact: its values and the constant add up to the logit.
    """
    with body_of(request) as body:
        service = body.service
        call = await _read_call(body)
        instance = service.repository.get(call.model).instance(call.engine)
        explainer = await service.aside(lambda: instance.classifier.explainer)
        index, against = explainer.find("index", call.index), explainer.find("against", call.against)
        try:
            (outcome,) = await service.classify(instance.features, [call.source], body.info)
        except EngineUnavailableError as error:
            raise bad_request(str(error)) from None
    if isinstance(outcome, ImageError):
        raise unprocessable(f"The image cannot be read: {outcome.reason}.")
    engine = instance.classifier.features_engine.name
    found = await service.aside(explainer.explain, outcome.logits, index, against, engine)
    seen = explainer.preprocessing.crop_size / explainer.preprocessing.resize_short
    postprocessing = instance.postprocessing(accepted_languages(request))
    names = {"label": postprocessing.labels[found.index].label}
    if found.against is not None:
        names["against_label"] = postprocessing.labels[found.against].label
    content = {"model": instance.model, **found.to_dict(), **names, "seen": seen}
    return json_response(content, headers=language_headers(postprocessing))


async def _read_call(body: Body) -> _Call:
    sent = await read_images(body)
    if sent is not None:
        parameters, _, sources = sent
        if len(sources) > 1:
            raise bad_request(f"{len(sources)} images were sent, and one is explained at a time; send them in turn.")
        given = (parameters.get(name) or None for name in ("index", "against", "model", "engine"))
        index, against, model, engine = given
        return _Call(sources[0], _number_or_name(index), _number_or_name(against), model, engine)
    content = await body.json(ExplainRequest, values=FEW_VALUES + VALUES_OF_IMAGE)
    body.hold(decoding_bytes([content.image.base64 or ""]))
    source = await read_source(content.image, body, running_total(body))
    return _Call(source, content.index, content.against, content.model, content.engine)


def _number_or_name(given: str | None) -> int | str | None:
    return int(given) if given is not None and given.isdecimal() and len(given) < 10 else given
