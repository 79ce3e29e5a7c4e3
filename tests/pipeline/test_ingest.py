"""Ingest: what becomes a version of the data, and that nothing is lost on the way."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from PIL import Image

from pipeline.data.dataset import SPLITS, Dataset, image_files
from pipeline.errors import DataError, SourceError
from pipeline.ingest import ingest, main
from pipeline.sources import File
from pipeline.sources.folder import Folder
from tests.conftest import run, write_images, write_params
from tests.pipeline.conftest import call, dvc

IMAGES = Path("../images")
"""What the fixture `ingested` has ingested."""


def version() -> str:
    return str(yaml.safe_load(Path("data.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"])


def test_ingest_makes_a_version_that_dvc_knows(ingested: Path) -> None:
    assert len(list(image_files(Path("data")))) == 36
    assert Dataset.read(Path("data")).classes == ("class-0", "class-1", "class-2")
    dvc("status", "data.dvc")
    assert not Path("artifacts/incoming").exists()
    first = version()
    ingest(Folder(IMAGES))
    assert version() == first, "the same data have another version"


def test_an_earlier_version_can_be_checked_out(ingested: Path) -> None:
    before = Path("data.dvc").read_bytes()
    shutil.rmtree(IMAGES / "class-2")
    ingest(Folder(IMAGES))
    assert not Path("data/class-2").exists()
    Path("data.dvc").write_bytes(before)
    dvc("checkout", "data.dvc")
    assert len(list(image_files(Path("data")))) == 36


def test_a_split_that_the_images_bring_is_mentioned_while_it_is_not_used(
    ingested: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in SPLITS:
        shutil.copytree(IMAGES, f"../split/{name}")
    hint = "set preprocess.split: predefined"
    ingest(Folder(Path("../split")), dry_run=True)
    assert hint in capsys.readouterr().out
    ingest(Folder(IMAGES), dry_run=True)
    assert hint not in capsys.readouterr().out
    write_params({"preprocess": {"split": "predefined"}})
    ingest(Folder(Path("../split")), dry_run=True)
    assert hint not in capsys.readouterr().out
    Path("params.yaml").write_text("[", encoding="utf-8")
    ingest(Folder(Path("../split")), dry_run=True)
    assert "dry run: nothing was changed" in capsys.readouterr().out


def test_the_summary_counts_new_removed_and_bad_files(
    ingested: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (IMAGES / "class-0" / "000.png").unlink()
    shutil.copy(IMAGES / "class-1" / "000.png", IMAGES / "class-1" / "new.png")
    (IMAGES / "class-2" / "bad.png").write_bytes(b"broken")
    ingest(Folder(IMAGES))
    output = capsys.readouterr().out
    rows = {line.split()[1]: line.split()[3::2] for line in output.splitlines() if "│" in line}
    assert rows["class-0"] == ["11", "0", "1", "0"]
    assert rows["class-1"] == ["13", "1", "0", "0"]
    assert rows["class-2"] == ["12", "0", "0", "1"]
    assert rows["all"] == ["36", "1", "1", "1"]
    assert "bad: class-2/bad.png: cannot be read" in output
    assert not Path("data/class-2/bad.png").exists()


def test_a_dry_run_changes_nothing(repository: Path, tmp_path: Path) -> None:
    before = sorted(Path().rglob("*"))
    ingest(Folder(write_images(tmp_path / "mine")), dry_run=True)
    assert not Path("data").exists() and not Path("data.dvc").exists()
    assert [p for p in sorted(Path().rglob("*")) if p not in before] == [Path("artifacts")]


def test_data_without_two_classes_are_refused_and_the_old_data_stay(
    ingested: Path, tmp_path: Path
) -> None:
    before = version()
    one_class = Folder(write_images(tmp_path / "one-class", ("class-0",)))
    broken = Folder(write_images(tmp_path / "broken"))
    for path in (tmp_path / "broken").rglob("*.png"):
        path.write_bytes(b"broken")
    for source, reason in ((one_class, "one class only"), (broken, "no usable image")):
        with pytest.raises(DataError, match=reason):
            ingest(source)
        assert version() == before
        assert len(list(image_files(Path("data")))) == 36


class Escaping(Folder):
    """A source that names a file outside of the data."""

    def files(self) -> Iterator[File]:
        yield File("../class-0/evil.png", b"x")


def test_a_path_that_leaves_the_folder_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="points outside"):
        ingest(Escaping(write_images(tmp_path / "mine")))
    assert not Path("class-0").exists()


def test_a_folder_without_dvc_is_refused(workdir: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a DVC repository"):
        ingest(Folder(write_images(tmp_path / "mine")))


def test_an_error_of_dvc_is_one_sentence(ingested: Path) -> None:
    before = Path("data.dvc").read_bytes()
    Path(".dvc/config").write_text("broken", encoding="utf-8")
    result = call(main, "folder", "--path", str(IMAGES))
    assert result.returncode == 1
    assert result.stderr.startswith("error: dvc cache failed: config file error: Invalid line")
    assert Path("data.dvc").read_bytes() == before


def test_a_cache_that_this_user_may_not_write_is_one_sentence(
    ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path("data.dvc").read_bytes()

    def refuse(project: Repo, target: str) -> None:
        raise PermissionError(13, "Permission denied", "/shared/cache/files/md5/89")

    monkeypatch.setattr(Repo, "add", refuse)  # root may write everything
    result = call(main, "folder", "--path", str(IMAGES))
    assert result.stderr == (
        "error: dvc add failed: /shared/cache/files/md5/89: permission denied; give this user the "
        "right to write there"
    )
    assert Path("data.dvc").read_bytes() == before


def test_the_user_sees_nothing_of_dvc(ingested: Path) -> None:
    result = run(sys.executable, "-m", "pipeline.ingest", "folder", "--path", str(IMAGES))
    assert result.stderr == ""
    assert result.stdout.endswith("`dvc repro`, then commit what changed\n")


OBJECT = r".*/cache/files/md5/\w\w/\w{30}"
POINTS = [
    ("an image is written", r"open .*/incoming/data/class-1/005\.png", 1, False),
    ("an image goes into the cache", rf"(open|os\.rename) {OBJECT}", 3, False),
    ("data.dvc is replaced", r"os\.rename .* data\.dvc", 1, False),
    ("the old images are removed", r"shutil\.rmtree data", 1, True),
    ("half of them are removed", r"os\.remove 001\.png", 2, True),
    ("the new images are moved", r"os\.rename .* data", 1, True),
    ("the leftovers are removed", r"os\.remove \.dvcignore", 1, True),
]
"""A moment, the audit event of Python that begins it, its turn, and whether the data are new."""

KILLED = """
import json, os, re, signal, sys
from pathlib import Path
import dvc.repo
from pipeline.ingest import ingest
from pipeline.sources.folder import Folder

def die_at(pattern, turn):
    seen = 0
    def watch(event, arguments):
        nonlocal seen
        paths = arguments[: 2 if event == "os.rename" else 1]
        if re.fullmatch(pattern, " ".join(map(str, [event, *paths]))):
            seen += 1
            if seen == turn:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)

for folder, pattern, turn in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            die_at(pattern, turn)
            ingest(Folder(Path(sys.argv[2])))
        finally:
            os._exit(0)
    print("status", os.waitpid(child, 0)[1])
"""


def test_a_killed_ingest_leaves_one_whole_version(
    ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = set(image_files(Path("data"))), write_images(tmp_path / "new", each=15)
    folders = [shutil.copytree(ingested, tmp_path / f"{n}") for n in range(len(POINTS))]
    kills = [
        (str(folder), pattern, turn)
        for folder, (_, pattern, turn, _) in zip(folders, POINTS, strict=True)
    ]
    output = run(sys.executable, "-c", KILLED, json.dumps(kills), str(new)).stdout
    statuses = [line for line in output.splitlines() if line.startswith("status")]
    assert statuses == [f"status {signal.SIGKILL:d}"] * len(POINTS)
    for folder, (moment, _, _, is_new) in zip(folders, POINTS, strict=True):
        monkeypatch.chdir(folder)
        dvc("checkout", "--force", "data.dvc")
        found = set(image_files(Path("data")))
        assert (len(found) == 45) if is_new else (found == old), moment
        for path in found:
            Image.open(Path("data") / path).verify()
        ingest(Folder(new))
        assert len(list(image_files(Path("data")))) == 45, moment
