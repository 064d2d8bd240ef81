"""Why a request is not answered with a result: one class, with the status that each protocol gives it."""

from __future__ import annotations

from http import HTTPStatus

from ..errors import GhostZooError, ImageError, InputError, OptionError, UnknownEngineError, UnknownModelError

CLIENT_GONE = 499
"""In the logs only: the client closed the connection before it was answered."""

RETRY_AFTER = 1
"""Seconds; a full queue is worked off in about this time."""


class RequestError(Exception):
    """The request is refused or has failed; the message is for the client."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ClientGoneError(RequestError):
    def __init__(self) -> None:
        super().__init__(CLIENT_GONE, "The client closed the connection.")


def bad_request(message: str) -> RequestError:
    return RequestError(HTTPStatus.BAD_REQUEST, message)


def unprocessable(message: str) -> RequestError:
    return RequestError(HTTPStatus.UNPROCESSABLE_ENTITY, message)


def not_found(message: str) -> RequestError:
    return RequestError(HTTPStatus.NOT_FOUND, message)


def too_large(message: str) -> RequestError:
    return RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


def overloaded(message: str) -> RequestError:
    return RequestError(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after=RETRY_AFTER)


def late() -> RequestError:
    return RequestError(504, "The request was not answered within its deadline; send fewer images, or try again later.")


def as_request_error(error: Exception) -> RequestError:
    """Return what the client is told of ``error``; of a fault of the server's own only that there is one."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, UnknownModelError | UnknownEngineError):
        return not_found(str(error))
    if isinstance(error, ImageError):
        return unprocessable(str(error))
    if isinstance(error, OptionError | InputError):
        return bad_request(str(error))
    if isinstance(error, GhostZooError):
        return RequestError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
    return RequestError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The server failed on this request; its log has the reason, by the request's id.",
    )
