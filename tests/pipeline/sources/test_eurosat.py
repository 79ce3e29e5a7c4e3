"""EuroSAT from archives: the official layouts, and archives that are not what they say."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from pipeline.errors import SourceError
from pipeline.sources.eurosat import MAX_FILE, EuroSAT


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def archive(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("root", ["2750", "EuroSAT_RGB", "ds/images/sentinel_2"])
def test_every_layout_of_the_archive_is_read(tmp_path: Path, root: str) -> None:
    members = {f"{root}/River/River_{n}.jpg": jpeg() for n in (2, 1)}
    members |= {f"{root}/Forest/Forest_1.jpg": jpeg(), f"{root}/LICENSE": b"MIT"}
    source = EuroSAT(archive(tmp_path / "a.zip", members))
    assert [file.path for file in source.files()] == [
        "Forest/Forest_1.jpg",
        "River/River_1.jpg",
        "River/River_2.jpg",
    ]
    assert source.dataset().classes == ("Forest", "River")
    assert source.dataset().bands == ("B04", "B03", "B02")


def test_an_unpacked_archive_is_read_alike(tmp_path: Path) -> None:
    zipped = archive(tmp_path / "a.zip", {"2750/River/River_1.jpg": jpeg()})
    with zipfile.ZipFile(zipped) as file:
        file.extractall(tmp_path / "unpacked")
    assert list(EuroSAT(tmp_path / "unpacked").files()) == list(EuroSAT(zipped).files())


def test_tif_members_are_the_thirteen_band_variant(tmp_path: Path) -> None:
    source = EuroSAT(archive(tmp_path / "a.zip", {"EuroSAT_MS/River/River_1.tif": b"x"}))
    assert len(source.dataset().bands) == 13
    assert source.dataset().scale == 10_000


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"README": b"x"}, "no EuroSAT image"),
        ({"2750/Beach/Beach_1.jpg": b"x"}, "no EuroSAT image"),
        ({"a/River/River_1.jpg": b"x", "a/River/River_1.tif": b"x"}, "both .jpg and .tif"),
        ({"../../River/River_1.jpg": b"x"}, "points outside"),
        ({"/etc/River/River_1.jpg": b"x"}, "points outside"),
        ({"a\\..\\..\\River/River_1.jpg": b"x"}, "points outside"),
        ({"a/River/River_1.jpg": bytes(MAX_FILE + 1)}, "bytes, wanted at most"),
    ],
)
def test_an_archive_that_is_not_eurosat_is_refused(
    tmp_path: Path, members: dict[str, bytes], words: str
) -> None:
    with pytest.raises(SourceError, match=words):
        EuroSAT(archive(tmp_path / "a.zip", members))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(SourceError, match="is not a zip file"):
        EuroSAT(tmp_path / "a.zip")


def test_a_missing_archive_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--download rgb"):
        EuroSAT(tmp_path / "a.zip")


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"a/River/River_1.jpg": b"x" * 1000})
    content = bytearray(path.read_bytes())
    content[100] ^= 0xFF  # inside of the stored member
    path.write_bytes(content)
    with pytest.raises(SourceError, match="River_1.jpg.*damaged"):
        list(EuroSAT(path).files())


def test_the_real_archive_is_read(eurosat: Path) -> None:
    source = EuroSAT(eurosat)
    assert len(source) > 20_000
    assert len(source.dataset().classes) == 10
