"""The tree of errors. A message names field, value and cure, never a path of the server.

ServiceError
├── BadRequest           400  the request cannot be understood
├── Unauthorized         401  no credentials, or wrong ones
├── Forbidden            403  credentials without the role that the route needs
├── NotFound             404  the requested object does not exist
├── MethodNotAllowed     405  the route is there, and takes other methods
├── SlowUpload           408  the body did not arrive in time
├── Conflict             409  somebody else is changing the same thing
├── TooLarge             413  more bytes or pixels than are taken
├── UnsupportedMedia     415  not one of the image formats that are taken
├── Unprocessable        422  understood, and cannot be used
│   └── BundleRefused         a model bundle that must not serve
├── Unavailable          503  not now; try again
│   ├── Overloaded            too much is waiting
│   ├── FeedbackUnavailable   the database of the answers cannot be used
│   └── RegistryUnavailable   Git or the DVC remote cannot be reached
├── InvalidOutput        500  the output of the model is invalid
└── StorageFull          507  the server's disk is full

UnsafeSettings                the service must not start like this
"""

from typing import ClassVar

INTERNAL = "internal error; the log has details under the id of this request"


class ServiceError(Exception):
    """Base of everything that is answered with a problem body (RFC 9457)."""

    status: ClassVar[int] = 500

    def __init__(self, detail: str, step: str | None = None) -> None:
        """Keep the message, and the failed step of a swap."""
        super().__init__(detail)
        self.detail = detail
        self.step = step

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        return {}


class BadRequest(ServiceError):
    """The request cannot be understood."""

    status = 400


class Unauthorized(ServiceError):
    """No credentials, or wrong ones."""

    status = 401

    @property
    def headers(self) -> dict[str, str]:
        """Say how to authenticate."""
        return {"www-authenticate": "Bearer"}


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
        self._allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        """Say which methods it takes."""
        return {"allow": ", ".join(self._allowed)}


class SlowUpload(ServiceError):
    """The body did not arrive in time."""

    status = 408

    @property
    def headers(self) -> dict[str, str]:
        """The rest of the body is not waited for."""
        return {"connection": "close"}


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

    @property
    def headers(self) -> dict[str, str]:
        """The rest of the body is not read."""
        return {"connection": "close"} if self.unread else {}


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

    @property
    def headers(self) -> dict[str, str]:
        """Seconds after which it is worth another try."""
        return {"retry-after": "1"}


class Overloaded(Unavailable):
    """Too much is waiting."""


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
