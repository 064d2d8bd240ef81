"""What the task API takes and answers, for validation and for the documentation."""

from __future__ import annotations

import binascii
import string
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..predictions import Choice
from .request_errors import unprocessable

MAX_TOP_K = 1000
MAX_NAME = 200
MAX_GROUPS = 100
TOP_K = "Classes for each image at most; by default 5, and of a multi-label model all that reach min_score."
MIN_SCORE = "Lowest score of a class; by default 0, and of a multi-label model 0.5."
CALIBRATED = "Use the temperature of a model that was calibrated; by default true."
COVERAGE = "As many classes as hold the right one with this probability, instead of top_k; needs a calibrated model."
UNKNOWN_BELOW = "No class for images less familiar than this share of the calibration's; needs a calibrated model."
GROUP = "WordNet groups whose classes' scores are added up, such as dog, with commas between; or basic."
INDEX = "The class to explain, by index or label; by default the one with the largest logit."
AGAINST = "A second class, by index or label: what speaks for the first one rather than for this."

_STEP = 2**20
"""Characters of base64 that are decoded at once."""
_WHITESPACE = string.whitespace.encode()

Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]
Groups = (
    Annotated[str, StringConstraints(min_length=1, max_length=MAX_GROUPS * 20)]
    | Annotated[list[Name], Field(min_length=1, max_length=MAX_GROUPS)]
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageRequest(_Strict):
    """One image: its bytes in base64, or its URL."""

    base64: str | None = Field(None, description="The encoded image; a data: URL is taken too.")
    url: Annotated[str, StringConstraints(max_length=8192)] | None = Field(
        None, description="Where to fetch it, if the server was started with --allow-urls."
    )
    name: Name | None = Field(None, description="What the answer calls it.")


class ClassifyOptions(BaseModel):
    """What is wanted of images, in the JSON, a query or a form."""

    model_config = ConfigDict(frozen=True)

    top_k: int | None = Field(None, ge=1, le=MAX_TOP_K, description=TOP_K)
    min_score: float | None = Field(None, ge=0, le=1, description=MIN_SCORE)
    calibrated: bool = Field(True, description=CALIBRATED)
    coverage: float | None = Field(None, gt=0, lt=1, description=COVERAGE)
    unknown_below: float | None = Field(None, gt=0, lt=1, description=UNKNOWN_BELOW)
    group: Groups | None = Field(None, description=GROUP)
    model: Name | None = Field(None, description="By default the first model of the server.")
    engine: Name | None = Field(None, description="By default the first engine of the server.")

    def choice(self) -> Choice:
        return Choice(self.top_k, self.min_score, self.calibrated, self.coverage, self.unknown_below, self.group)


class ClassifyRequest(ClassifyOptions, _Strict):
    """Images to classify."""

    images: list[ImageRequest] = Field(min_length=1)


class ExplainRequest(_Strict):
    """An image, and the class to explain."""

    image: ImageRequest
    index: int | Name | None = Field(None, description=INDEX)
    against: int | Name | None = Field(None, description=AGAINST)
    model: Name | None = Field(None, description="By default the first model of the server.")
    engine: Name | None = Field(None, description="By default the first engine of the server.")


class ExplainResponse(BaseModel):
    """What a logit, or the difference of two, is made of: the sum of the map, and a constant."""

    model: str
    engine: str
    index: int
    label: str
    against: int | None
    against_label: str | None
    logit: float
    constant: float = Field(description="What comes from no place.")
    map: list[list[float]] = Field(
        description="What each place of the centre square that the network saw adds, by rows."
    )
    seen: float = Field(description="Side of that square, as a share of the image's shorter side.")


class ClassResult(BaseModel):
    """One class."""

    index: int
    label: str
    score: float = Field(
        description="Probability, 0 to 1, rounded to 5 decimals: softmax, or sigmoid of a multi-label model."
    )
    wnid: str | None = Field(description="WordNet id of the class, where it has one.")


class PredictionResult(ClassResult):
    """One class that the model sees in an image, or a group of classes."""

    best: ClassResult | None = Field(None, description="Of a group, its largest class, whose index it has.")


class StageTimes(BaseModel):
    """Where the time of one image went, in milliseconds."""

    queue_ms: float = Field(description="Until a worker took it.")
    decode_ms: float = Field(description="Decoding and preprocessing.")
    batch_ms: float = Field(description="Waiting for its batch.")
    inference_ms: float = Field(description="The engine's call for the whole batch.")
    batch_size: int = Field(description="Images in that call.")


class ImageResult(BaseModel):
    """The classes of one image, best first, or why it could not be read. There may be none that reaches min_score."""

    name: str
    predictions: list[PredictionResult] | None = None
    timing: StageTimes | None = None
    error: str | None = None


class ClassifyResponse(BaseModel):
    """A result for each image, in the order of the request."""

    model: str
    engine: str
    images: list[ImageResult]
    total_ms: float = Field(description="From the arrival of the request to the answer, in milliseconds.")


class ErrorResponse(BaseModel):
    """Why the request was refused."""

    error: str


class ModelDescription(BaseModel):
    """A model of this server."""

    name: str
    ready: bool
    classes: int | None = None
    multi_label: bool | None = Field(None, description="Whether an image shows any number of the classes.")
    temperature: float | None = Field(None, description="What its logits are divided by, if it was calibrated.")
    image_size: int | None = Field(None, description="Side of the network's input in pixels.")
    engines: list[str] = Field([], description="What can run it; the first is the default.")
    running: list[dict[str, Any]] = Field([], description="Version, device and threads of each of them.")
    files: dict[str, int] = Field({}, description="Path below /v1/models/{name}/files/ -> bytes.")


class ModelsResponse(BaseModel):
    """The models of this server; the first is the default."""

    models: list[ModelDescription]


def decode_base64(text: str) -> bytes:
    """Decode base64, with or without a ``data:`` prefix and line breaks.

    Raises:
        RequestError: it is no base64.
    """
    try:
        given = text.encode("ascii").rstrip()
        if given[:5].lower() == b"data:":
            given = given.partition(b",")[2]
        return b"".join(_decoded(memoryview(given)))
    except ValueError as error:
        raise unprocessable(f"The image is not valid base64 ({_reason(error)}).") from error


def _decoded(text: memoryview) -> Iterator[bytes]:
    """A step at a time: no other thread runs within one."""
    rest = b""
    for start in range(0, len(text), _STEP):
        rest += bytes(text[start : start + _STEP]).translate(None, _WHITESPACE)
        is_last = start + _STEP >= len(text)
        end = len(rest) if is_last else len(rest) // 4 * 4
        if not is_last and b"=" in rest[:end]:
            raise ValueError("it goes on after its end")
        yield binascii.a2b_base64(rest[:end], strict_mode=True)
        rest = rest[end:]


def _reason(error: ValueError) -> str:
    """Without the text itself, which the error of a wrong character would repeat."""
    return "it has characters other than ASCII" if isinstance(error, UnicodeEncodeError) else str(error)


def decoding_bytes(texts: Iterable[str]) -> int:
    """The bytes that decoding one of ``texts`` after the other takes at most at a time, with what comes of it."""
    return 3 * max(map(len, texts), default=0)
