"""The decoder alone: what it takes it takes exactly, everything else it refuses, cheaply."""

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from PIL import Image

from service.errors import BadRequest, ServiceError, TooLarge, Unprocessable, UnsupportedMedia
from service.inference.decode import MAX_SEGMENTS, conform, decode, read_image
from service.inference.preview import true_colour
from service.inference.tiff import read_plain
from tests.make import images, mutants

MAX = mutants.MAX_PIXELS
GROWTH = 64  # MiB that all attacks together may cost


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> None:
    """tifffile reports what is broken; the service mutes it."""
    caplog.set_level(logging.CRITICAL, logger="tifffile")


def test_every_attack_is_refused_and_all_of_them_cost_less_than_64_mib() -> None:
    report = mutants.measure(0, 0)
    assert report["wrong"] == []
    assert "right" not in report["verdicts"]
    assert sum(report["verdicts"].values()) >= 180
    assert report["growth"] < GROWTH


def test_damaged_images_are_read_right_or_refused() -> None:
    report = mutants.measure(1, 8_000)
    assert report["wrong"] == []
    assert report["verdicts"]["422"] > 800, "hardly anything was damaged"
    assert report["growth"] < GROWTH


def test_the_strip_of_a_gibibyte_is_one() -> None:
    coder, size = zlib.decompressobj(), 0
    data = images.deflated_gibibyte()
    while data:
        size += len(coder.decompress(data, 1 << 20))
        data = coder.unconsumed_tail
    assert size == images.GIB
    assert coder.eof


def truncations(size: int) -> Iterator[int]:
    """About 100 places: every byte of the first 32, every byte of the last 16, and between."""
    yield from range(1, min(33, size))
    yield from range(33, size - 16, max(1, (size - 49) // 50))
    yield from range(max(33, size - 16), size)


@pytest.mark.parametrize("name", [name for name, _, _ in mutants.FILES])
def test_a_cut_off_image_is_refused_wherever_it_was_cut(name: str) -> None:
    content, wanted = next((file, wants) for item, file, wants in mutants.FILES if item == name)
    whole = decode(content, wanted, MAX)
    refused = total = 0
    for size in truncations(len(content)):
        total += 1
        try:
            pixels = decode(content[:size], wanted, MAX)
        except ServiceError as error:
            refused += 400 <= error.status < 500
        else:  # only what is no pixel is missing, such as a PNG's last chunk
            assert name == "PNG" and np.array_equal(pixels, whole), f"cut at {size}"
            refused += 1
    assert refused == total >= 90


def test_bytes_and_a_view_of_them_are_read_alike() -> None:
    for name, content, wanted in mutants.FILES:
        view = memoryview(b"before" + content + b"after")[6:-5]
        whole = decode(content, wanted, MAX)
        assert np.array_equal(decode(view, wanted, MAX), whole), name


def test_plain_tiffs_are_read_without_tifffile_and_alike() -> None:
    plain = [name for name, file in images.CHIPS.items() if read_plain(file) is not None]
    assert plain == ["plain TIFF", "TIFF in planes", "TIFF in strips"]
    for name in plain:
        found = read_plain(images.CHIPS[name])
        assert found is not None and np.array_equal(found, images.CHIP)


def test_an_empty_image_is_refused() -> None:
    for content in (b"", memoryview(b"")):
        with pytest.raises(BadRequest, match="empty"):
            read_image(content, MAX)


def test_the_declared_size_of_a_picture_is_checked_before_it_is_decoded() -> None:
    with pytest.raises(TooLarge, match="20000 x 20000|declares more"):
        read_image(images.png_of(20000, 20000), MAX)
    with pytest.raises(
        TooLarge, match="64 x 64 pixels in 3 bands; at most 12287 values .* to POST /maps"
    ):
        read_image(images.PICTURES["PNG"], 64 * 64 * 3 - 1)
    assert read_image(images.PICTURES["PNG"], 64 * 64 * 3).shape == (3, 64, 64)


def test_the_limit_of_values_holds_for_every_format() -> None:
    for name, content in images.CHIPS.items():
        with pytest.raises(TooLarge):
            pytest.fail(f"{name}: {read_image(content, images.CHIP.size - 1).shape}")
        assert read_image(content, images.CHIP.size).size == images.CHIP.size, name


@pytest.mark.parametrize(
    "chunk",
    [
        images.png_chunk(b"zTXt", b"key\0\0" + images.deflated_gibibyte()),
        images.png_chunk(b"iTXt", b"key\0\1\0\0\0" + images.deflated_gibibyte()),
        images.png_chunk(b"iCCP", b"key\0\0" + images.deflated_gibibyte()),
        images.png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        images.png_chunk(b"tEXt", b"key\0" + bytes(1 << 20)),
    ],
    ids=["zTXt", "iTXt", "iCCP", "acTL", "tEXt"],
)
def test_a_png_gives_its_pixels_with_any_ancillary_chunk(chunk: bytes) -> None:
    whole = read_image(images.PICTURES["PNG"], MAX)
    assert np.array_equal(read_image(images.png_with(chunk, chunk), MAX), whole)


@pytest.mark.parametrize(
    "segment",
    [images.exif_bomb(), images.segment(0xE2, b"MPF\0" + bytes(999)), images.segment(0xFE, b"x")],
    ids=["Exif", "MPF", "comment"],
)
def test_a_jpeg_gives_its_pixels_with_any_segment(segment: bytes) -> None:
    whole = read_image(images.PICTURES["baseline JPEG"], MAX)
    assert np.array_equal(read_image(images.jpeg_with(segment, segment), MAX), whole)


def test_chunks_scans_and_segments_are_taken_up_to_their_limits() -> None:
    chunk = images.png_chunk(b"teSt", b"")
    read_image(images.png_with(chunk * (MAX_SEGMENTS - 10)), MAX)
    with pytest.raises(Unprocessable, match=f"more than {MAX_SEGMENTS} chunks"):
        read_image(images.png_with(chunk * MAX_SEGMENTS), MAX)
    read_image(images.many_scans(40), MAX)
    with pytest.raises(Unprocessable, match="baseline"):
        read_image(images.many_scans(65), MAX)


def test_a_tiff_with_overviews_and_a_mask_gives_its_image() -> None:
    content = io.BytesIO()
    with tifffile.TiffWriter(content) as writer:
        options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
        writer.write(images.PIXELS_LAST, **options)
        writer.write(np.ascontiguousarray(images.PIXELS_LAST[::2, ::2]), subfiletype=1, **options)
        writer.write(images.PIXELS_LAST[..., 0] > 0, subfiletype=4, photometric="minisblack")
    assert np.array_equal(read_image(content.getvalue(), MAX), images.CHIP)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_two_images_are_refused_and_an_overview_is_not(
    byteorder: Literal["<", ">"], bigtiff: bool
) -> None:
    for kind, images_in_it in ((0, 2), (1, 1)):
        content = io.BytesIO()
        with tifffile.TiffWriter(content, byteorder=byteorder, bigtiff=bigtiff) as writer:
            writer.write(images.CHIP[0], photometric="minisblack")
            writer.write(images.CHIP[1][::2], photometric="minisblack", subfiletype=kind)
        if images_in_it == 1:
            assert np.array_equal(read_image(content.getvalue(), MAX)[0], images.CHIP[0])
        else:
            with pytest.raises(Unprocessable, match="holds 2 images"):
                read_image(content.getvalue(), MAX)


def test_another_format_is_refused_with_those_that_are_taken() -> None:
    for name, content in images.strangers():
        with pytest.raises(UnsupportedMedia, match="GeoTIFF, TIFF, PNG, JPEG or NPY"):
            pytest.fail(f"{name}: {read_image(content, MAX).shape}")


def test_every_version_of_npy_is_read() -> None:
    for version in (1, 2, 3):
        content = images.npy_of(data=images.CHIP.tobytes(), version=version)
        assert np.array_equal(read_image(content, MAX), images.CHIP), version


def test_other_writers_of_npy_are_understood() -> None:
    header = "{'shape':(4,64,64),'fortran_order':False,'descr':'<u2'}"
    content = images.raw_npy(header, images.CHIP.tobytes())
    assert np.array_equal(read_image(content, MAX), images.CHIP)


def test_a_header_of_npy_that_lacks_or_repeats_an_entry_is_refused() -> None:
    entries = ("'descr': '<u2'", "'fortran_order': False", "'shape': (4, 64, 64)")
    for number, entry in enumerate(entries):
        rest = entries[:number] + entries[number + 1 :]
        for wrong in (rest, (entry, *rest[:1], *rest[:1]), (*entries, entry)):
            with pytest.raises(Unprocessable, match="NPY header"):
                read_image(images.raw_npy("{" + ", ".join(wrong) + "}"), MAX)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 700), (4, 600, 2), (7, 8, 8)])
def test_a_preview_of_any_numbers_is_a_picture(shape: tuple[int, ...]) -> None:
    for value in (np.nan, np.inf, -np.inf, 1e308, -1e308, 0.0):
        preview_is_a_picture(value, shape)


def preview_is_a_picture(value: float, shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, value, np.float64)
    pixels[..., 0] = 1
    with Image.open(io.BytesIO(true_colour(pixels, ("B02", "B03", "B04", "B08")))) as image:
        assert image.format == "PNG" and image.mode == "RGB" and max(image.size) <= 512


def test_resizing_keeps_to_the_range_of_the_dtype() -> None:
    wanted = mutants.CHIPS
    for value in (1, 65535):
        pixels = np.full((4, 7, 300), value, np.uint16)
        assert (conform(pixels, wanted, "stretch") == value).all()


def test_an_image_without_data_is_refused() -> None:
    wanted = mutants.CHIPS
    assert wanted.nodata == 0
    empty = np.zeros(wanted.shape, np.uint16)
    with pytest.raises(Unprocessable, match="no pixel of the image has data: every value is 0"):
        conform(empty, wanted, "")
    empty[-1, -1, -1] = 5
    assert conform(empty, wanted, "") is not None
