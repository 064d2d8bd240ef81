"""The formats of the original's servers, for clients that move from them: PaddleX, and Paddle Serving's pipelines.

Both are answered as they answer, in the case of an error too, with the HTTP status as the code of the error; only
a missing key, a page of another site and a fault of the server itself are told as on all other routes.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, StringConstraints

from .._utils.urls import is_url
from ..errors import GhostZooError, ImageError
from ..predictions import SCORE_DECIMALS, Choice, Prediction
from .answers import ApiRoute, failure_response, json_response
from .body import Body, body_of
from .classify import fetch, running_total
from .documentation import SMALL_GIF, failures, json_body, with_body
from .queueing import Source
from .repository import ModelInstance
from .request_errors import RequestError, bad_request, unprocessable
from .schemas import MAX_TOP_K, decode_base64, decoding_bytes

PIPELINE_NAME = "imagenet"
"""What the original's pipeline is called; it stands for the first model here."""

router = APIRouter(tags=["for clients of the original"], route_class=ApiRoute)

Text = Annotated[str, StringConstraints(min_length=1)]


class PaddlexRequest(BaseModel):
    """One image in base64, or its URL if the server was started with --allow-urls."""

    image: Text
    topk: int | None = Field(None, ge=1, le=MAX_TOP_K)


class PaddlexCategory(BaseModel):
    id: int
    name: str
    score: float


class PaddlexResult(BaseModel):
    categories: list[PaddlexCategory]


class PaddlexResponse(BaseModel):
    """PaddleX's answer."""

    logId: str  # noqa: N815
    errorCode: int  # noqa: N815
    errorMsg: str  # noqa: N815
    result: PaddlexResult | None = None


class PipelineRequest(BaseModel):
    """Feeds by name: `image` with one image in base64."""

    key: list[Text] = Field(min_length=1, max_length=8)
    value: list[str] = Field(min_length=1, max_length=8)


class PipelineResponse(BaseModel):
    """Paddle Serving's answer: lists as text, the best class only."""

    err_no: int
    err_msg: str
    key: list[str]
    value: list[str]
    tensors: list[Any]


def _answers(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return failures(401, 403) | {status: {"model": model} for status in (400, 404, 408, 413, 415, 422, 503, 504)}


@router.post(
    "/image-classification",
    summary="As PaddleX's server",
    response_model=PaddlexResponse,
    responses=_answers(PaddlexResponse),
    openapi_extra=with_body(json_body(PaddlexRequest, example={"image": SMALL_GIF, "topk": 5})),
)
async def paddlex(request: Request) -> Response:
    """The classes of one image by the server's first model, as PaddleX's image classification serves them."""
    log_id = request.state.request_info.request_id
    try:
        with body_of(request) as body:
            content = await body.json(PaddlexRequest)
            is_there = not is_url(content.image)
            image = content.image if is_there else await fetch(content.image, body, running_total(body))
            instance = body.service.repository.get().instance(None)
            found = await _classify(body, instance, image, content.topk)
    except (RequestError, GhostZooError) as error:
        return failure_response(error, lambda status, text: {"logId": log_id, "errorCode": status, "errorMsg": text})
    categories = [{"id": each.index, "name": each.label, "score": round(each.score, SCORE_DECIMALS)} for each in found]
    result = {"categories": categories}
    return json_response({"logId": log_id, "errorCode": 0, "errorMsg": "Success", "result": result})


@router.post(
    "/{name}/prediction",
    summary="As Paddle Serving's pipelines",
    response_model=PipelineResponse,
    responses=_answers(PipelineResponse),
    openapi_extra=with_body(json_body(PipelineRequest, example={"key": ["image"], "value": [SMALL_GIF]})),
)
async def pipeline(request: Request, name: str) -> Response:
    """The best class of one image by the model `name`; `imagenet`, the original's name, is the first model."""
    try:
        with body_of(request) as body:
            content = await body.json(PipelineRequest)
            if len(content.key) != len(content.value):
                raise bad_request(f"There are {len(content.key)} keys and {len(content.value)} values; send as many.")
            feeds = dict(zip(content.key, content.value, strict=True))
            if "image" not in feeds:
                raise bad_request("There is no key 'image'; send the image under it.")
            repository = body.service.repository
            wanted = None if name == PIPELINE_NAME and name not in repository.names else name
            (best,) = await _classify(body, repository.get(wanted).instance(None), feeds["image"], 1, min_score=0.0)
    except (RequestError, GhostZooError) as error:
        return failure_response(
            error, lambda status, text: {"err_no": status, "err_msg": text, "key": [], "value": [], "tensors": []}
        )
    value = [str([best.label]), str([round(best.score, SCORE_DECIMALS)])]
    return json_response({"err_no": 0, "err_msg": "", "key": ["label", "prob"], "value": value, "tensors": []})


async def _classify(
    body: Body, instance: ModelInstance, image: str | Source, top_k: int | None, min_score: float | None = None
) -> list[Prediction]:
    source: Source
    if isinstance(image, str):
        body.hold(decoding_bytes([image]))
        source = await body.aside(len(image), decode_base64, image)
    else:
        source = image
    (outcome,) = await body.service.classify(instance, [source], body.info)
    if isinstance(outcome, ImageError):
        raise unprocessable(f"The image cannot be read: {outcome.reason}.")
    postprocessing = instance.classifier.bundle.postprocessing
    top_k = top_k or min(postprocessing.top_k, MAX_TOP_K)
    return postprocessing.predictions(outcome.logits[None], Choice(top_k, min_score))[0]
