"""The tree of errors. A message names field, value and cure, never a path of the server."""

from collections.abc import Mapping
from typing import ClassVar

CUT_IT = "cut the image into chips, or send a scene to POST /maps, if the model draws label maps"
"""The cure of an image that is too large for `/predict`."""
INTERNAL = "internal error; the log has details under the id of this request"


class ServiceError(Exception):
    """Base of everything that is answered with a problem body (RFC 9457)."""

    status: ClassVar[int] = 500
    headers: Mapping[str, str] = {}
    """Headers of the response."""

    def __init__(self, detail: str, step: str | None = None) -> None:
        """Keep the message, and the failed step of a swap."""
        super().__init__(detail)
        self.detail = detail
        self.step = step


class BadRequest(ServiceError):
    """The request cannot be understood."""

    status = 400


class Unauthorized(ServiceError):
    """No credentials, or wrong ones."""

    status = 401
    headers = {"www-authenticate": "Bearer"}


class Forbidden(ServiceError):
    """The credentials lack the role that the route needs."""

    status = 403


class NotFound(ServiceError):
    """The requested object does not exist."""

    status = 404


class MethodNotAllowed(ServiceError):
    """The route is there, and takes other methods."""

    status = 405

    def __init__(self, detail: str, allowed: tuple[str, ...]) -> None:
        """Keep the methods that it takes."""
        super().__init__(detail)
        self.headers = {"allow": ", ".join(allowed)}


class SlowUpload(ServiceError):
    """The body did not arrive in time."""

    status = 408
    headers = {"connection": "close"}  # the rest of the body is not waited for


class Conflict(ServiceError):
    """Somebody else is changing the same thing."""

    status = 409


class TooLarge(ServiceError):
    """More bytes or pixels than are taken."""

    status = 413

    def __init__(self, detail: str, unread: bool = False) -> None:
        """Keep whether a part of the body was not read."""
        super().__init__(detail)
        self.unread = unread
        self.headers = {"connection": "close"} if unread else {}


class UnsupportedMedia(ServiceError):
    """Not one of the image formats that are taken."""

    status = 415


class Unprocessable(ServiceError):
    """Understood, and cannot be used."""

    status = 422


class BundleRefused(Unprocessable):
    """A model bundle that must not serve."""


class Unavailable(ServiceError):
    """Not now; try again."""

    status = 503
    headers = {"retry-after": "1"}  # seconds after which it is worth another try


class Overloaded(Unavailable):
    """Too much is waiting."""


class BeingFetched(Unavailable):
    """The model that a request names is on its way."""


class FeedbackUnavailable(Unavailable):
    """The database of the answers cannot be used."""


class RegistryUnavailable(Unavailable):
    """Git or the DVC remote cannot be reached."""


class InvalidOutput(ServiceError):
    """The output of the model is invalid."""


class StorageFull(ServiceError):
    """The server's disk is full."""

    status = 507


class UnsafeSettings(Exception):
    """The service must not start like this; the message says why and what to do."""
