"""Objects of S3 and what speaks like it, by s3fs, which comes with DVC.

Credentials, region and address are found as by the AWS command line: AWS_PROFILE,
AWS_ENDPOINT_URL, ~/.aws and so on.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from service.errors import NotFound, ServiceError, TooLarge, Unavailable, Unprocessable

MISSING = (
    "s3://: s3fs is not installed: install the extra that has it (pip install "
    "'conveyor[registry]', or pip install s3fs)"
)
SHOWN = 200  # letters of what the client says


def listing(place: str) -> dict[str, tuple[int, str]]:
    """Size and ETag of every object below a prefix, by bucket and key.

    Raises:
        ServiceError: s3fs is missing, the bucket is not there, or refuses.
    """
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    if not bucket:
        raise Unprocessable(f"IN {place}: name a bucket: s3://bucket/prefix")
    try:
        below = "/".join(filter(None, (bucket, prefix.strip("/"))))
        found = _client().find(below, detail=True)
    except ServiceError:
        raise
    except FileNotFoundError:
        raise NotFound(f"IN {place}: there is no such bucket: check the name") from None
    except Exception as error:  # s3fs, botocore and aiohttp share no base but this
        raise Unavailable(f"IN {place} cannot be listed: {_said(error)}") from None
    return {
        key: (int(about.get("size") or 0), str(about.get("ETag", "")).strip('"'))
        for key, about in found.items()
        if about.get("type") != "directory"
    }


def fetch(keys: Sequence[str]) -> dict[str, bytes | ServiceError]:
    """Fetch objects, several at once.

    Raises:
        Unavailable: the store does not answer; asking later may help.
    """
    if not keys:
        return {}
    client = _client()
    client.invalidate_cache()
    try:
        found = client.cat(list(keys), on_error="return")
    except Exception as error:  # as above
        raise Unavailable(f"S3 does not answer: {_said(error)}") from None
    return {key: _content(found[key]) for key in keys}


def fetch_one(key: str, limit: int) -> bytes:
    """Fetch an object of at most `limit` bytes.

    Raises:
        Unavailable: the store does not answer; asking later may help.
        ServiceError: it is larger, not there, or must not be read.
    """
    client = _client()
    try:
        size = int(client.info(key, refresh=True).get("size") or 0)
        found: Any = client.cat_file(key) if size <= limit else b""
    except Exception as error:  # as above
        size, found = 0, error
    if size > limit:
        raise TooLarge(f"the object has {size} bytes, at most {limit} are taken")
    content = _content(found)
    if isinstance(content, ServiceError):
        raise content
    return content


def _content(found: Any) -> bytes | ServiceError:
    if isinstance(found, bytes):
        return found
    if isinstance(found, FileNotFoundError):
        return NotFound("the object is not there, or was deleted after the prefix was listed")
    if isinstance(found, PermissionError):
        return Unprocessable("the object must not be read with these credentials")
    raise Unavailable(f"S3 does not answer: {_said(found)}")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:SHOWN]}"


@cache
def _client() -> Any:
    try:
        import s3fs
    except ImportError:
        raise Unavailable(MISSING) from None
    return s3fs.S3FileSystem(use_listings_cache=False)
