"""Messages become frames or reasons; nothing that a message holds can raise."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Message

from contracts.frames import IN_BAND, headers_of
from service import s3
from service.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    ServiceError,
    TooLarge,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)
from service.stream import frames
from tests.fakes import s3 as store

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def message(headers: Any, value: bytes | None = b"x", **place: Any) -> Message:
    """A message as the client hands it over."""
    at: dict[str, Any] = {"topic": "frames", "partition": 0, "offset": 7, "timestamp": (1, 5)}
    return Message(value=value, headers=headers, **at | place)


def good(**more: str) -> list[tuple[str, bytes]]:
    return headers_of("camera-1", 5, NOW, **more)


def without(name: str) -> list[tuple[str, bytes]]:
    return [item for item in good() if item[0] != name]


def test_a_frame_is_read_with_all_that_its_headers_say() -> None:
    one = frames.read(message(good(live="1", fit="resize", model="landcover")), NOW)
    assert one.refused is None and one.frame is not None and one.image is not None
    assert one.frame[:4] == ("camera-1", 5, NOW, True) and one.frame.model == "landcover"
    assert (one.image.content, one.image.fit, one.image.prediction_id) == (b"x", "stretch", one.id)


@pytest.mark.parametrize(
    ("headers", "error", "says"),
    [
        (None, BadRequest, "the header `source` is missing"),
        ([], BadRequest, "the header `source` is missing"),
        (without("sequence"), BadRequest, "`sequence` is missing"),
        (without("captured_at"), BadRequest, "`captured_at` is missing"),
        ([*without("source"), ("source", b"\xff\xfe")], BadRequest, "source is"),
        ([*without("source"), ("source", b"a" * 5000)], BadRequest, "source is"),
        ([*without("sequence"), ("sequence", b"-1")], BadRequest, "a whole number"),
        ([*without("sequence"), ("sequence", b"9" * 5000)], BadRequest, "a whole number"),
        ([*without("sequence"), ("sequence", "\u0663".encode())], BadRequest, "a whole number"),
        ([*without("captured_at"), ("captured_at", None)], BadRequest, "`captured_at` is missing"),
        ([*without("captured_at"), ("captured_at", b"noon")], BadRequest, "with its zone"),
        ([*without("captured_at"), ("captured_at", b"2026-11-29")], BadRequest, "with its zone"),
        (headers_of("a", 1, NOW + timedelta(hours=1)), Unprocessable, "3600 s in the future"),
        (good(content_type="video/h264"), UnsupportedMedia, "content-type is 'video/h264'"),
        (good(fit="squeeze"), Unprocessable, "fit is 'squeeze'"),
        (good(reference="/frames/1.tif"), BadRequest, "a reference and bytes"),
    ],
)
def test_a_poison_frame_gets_a_reason(headers: Any, error: type[Exception], says: str) -> None:
    one = frames.read(message(headers), NOW)
    assert type(one.refused) is error and says in str(one.refused)
    assert one.image is None and len(one.id) == 16


def test_a_large_frame_has_to_travel_as_a_reference() -> None:
    one = frames.read(message(good(), bytes(IN_BAND + 1)), NOW)
    assert isinstance(one.refused, TooLarge) and "reference" in one.refused.detail
    assert frames.read(message(good(), bytes(IN_BAND)), NOW).refused is None


def test_a_message_has_one_id_and_no_other_message_has_it() -> None:
    places: list[dict[str, Any]] = [
        {},
        {"topic": "other"},
        {"partition": 1},
        {"offset": 8},
        {"timestamp": (1, 6)},
    ]
    ids = [frames.prediction_id(message(good(), **place)) for place in places]
    assert len(set(ids)) == len(places)
    assert ids == [frames.prediction_id(message([], b"", **place)) for place in places]


def test_a_reference_is_read_below_its_prefixes_alone(tmp_path: Path) -> None:
    inside, outside = tmp_path / "frames", tmp_path / "frames-2"
    inside.mkdir()
    outside.mkdir()
    (inside / "a.npy").write_bytes(b"abc")
    (outside / "b.npy").write_bytes(b"abc")
    (inside / "link").symlink_to(outside / "b.npy")
    (inside / "circle").symlink_to(inside / "circle")
    os.mkfifo(inside / "pipe")
    below = [str(inside), "s3://bucket/frames/"]
    assert frames.fetch(str(inside / "a.npy"), below, 3) == b"abc"
    assert frames.fetch(f"file://{inside / 'a.npy'}", below, 3) == b"abc"
    refused: list[tuple[str, type[ServiceError]]] = [
        (str(outside / "b.npy"), Forbidden),
        (str(inside / ".." / "frames-2" / "b.npy"), Forbidden),
        (str(inside / "link"), Forbidden),
        ("/etc/passwd", Forbidden),
        ("s3://bucket/other/a.npy", Forbidden),
        ("s3://bucket/frames/../other/a.npy", Forbidden),
        (str(inside / "missing"), NotFound),
        (str(inside / "circle"), Unprocessable),
        (str(inside / "pipe"), Unprocessable),
        (str(inside), Unprocessable),
        (str(inside / ("x" * 5000)), Unprocessable),
        ("\0", Unprocessable),
    ]
    for reference, error in refused:
        with pytest.raises(ServiceError) as caught:
            frames.fetch(reference, below, 3)
        assert type(caught.value) is error, reference
    with pytest.raises(TooLarge):
        frames.fetch(str(inside / "a.npy"), below, 2)
    with pytest.raises(Forbidden):
        frames.fetch(str(inside / "a.npy"), [], 3)


def test_a_reference_to_s3_is_fetched_and_one_that_cannot_be_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.forget_environment(monkeypatch, tmp_path)
    with store.serving("bucket") as address:
        for name, value in (store.KEYS | {"AWS_ENDPOINT_URL": address}).items():
            monkeypatch.setenv(name, value)
        s3._client.cache_clear()
        url, owner = f"{address}/bucket/frames/a.npy", {"authorization": "AWS testing:x"}
        httpx.put(url, content=b"abc", headers=owner, timeout=60).raise_for_status()
        below = ["s3://bucket/frames/"]
        assert frames.fetch("s3://bucket/frames/a.npy", below, 3) == b"abc"
        with pytest.raises(TooLarge, match="the object has 3 bytes"):
            frames.fetch("s3://bucket/frames/a.npy", below, 2)
        with pytest.raises(NotFound):
            frames.fetch("s3://bucket/frames/b.npy", below, 3)
    with pytest.raises(Unavailable, match="S3 does not answer"):
        frames.fetch("s3://bucket/frames/a.npy", below, 3)
    s3._client.cache_clear()
