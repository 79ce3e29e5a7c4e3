"""Models by tag and images in S3, from a real registry and a store that speaks S3."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fakes import s3
from tests.make import batches
from tests.make.repositories import V1, Project

BUCKET = "images"
OWNER = {"authorization": "AWS testing:unchecked"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store with 40 chips, a broken one and a text below `2026/`."""
    folder = tmp_path_factory.mktemp("chips")
    batches.write_chips(folder, 40)
    (folder / "broken.tif").write_bytes(b"II*\0rubbish")
    (folder / "notes.txt").write_bytes(b"x")
    with s3.serving(BUCKET) as address:
        for path in folder.rglob("*.*"):
            name = path.relative_to(folder).as_posix()
            for prefix in ("2026", "other"):
                httpx.put(
                    f"{address}/{BUCKET}/{prefix}/{name}",
                    content=path.read_bytes(),
                    headers=OWNER,
                    timeout=60,
                ).raise_for_status()
        yield address


def test_a_prefix_of_s3_gives_the_answers_of_a_folder(
    bundle: Path, address: str, tmp_path: Path
) -> None:
    variables = s3.KEYS | {"AWS_ENDPOINT_URL": address, "NO_PROXY": "127.0.0.1", "HOME": tmp_path}
    done = batches.batch(f"s3://{BUCKET}/2026", tmp_path / "s3.parquet", bundle, **variables)
    assert done.returncode == 0, done.stderr
    assert "41 images in" in done.stdout and "1 other files were passed over" in done.stdout
    folder = tmp_path / "chips"
    batches.write_chips(folder, 40)
    (folder / "broken.tif").write_bytes(b"II*\0rubbish")
    assert batches.batch(folder, tmp_path / "folder.parquet", bundle).returncode == 0
    rows, wanted = (batches.rows(tmp_path / f"{name}.parquet") for name in ("s3", "folder"))
    for row in wanted:
        row["path"] = f"s3://{BUCKET}/2026/{row['path']}"
    assert rows == wanted


def test_what_s3_refuses_is_a_sentence(bundle: Path, address: str, tmp_path: Path) -> None:
    variables = s3.KEYS | {"AWS_ENDPOINT_URL": address, "NO_PROXY": "127.0.0.1", "HOME": tmp_path}
    cases = {
        "s3://nowhere/2026": "there is no such bucket",
        f"s3://{BUCKET}/empty": "there is no image in it",
        "s3://": "name a bucket: s3://bucket/prefix",
    }
    for place, sentence in cases.items():
        done = batches.batch(place, tmp_path / "out.parquet", bundle, **variables)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith(f"error: IN {place}") and sentence in done.stderr
    gone = variables | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = batches.batch(f"s3://{BUCKET}/2026", tmp_path / "out.parquet", bundle, **gone)
    assert done.returncode == 1 and "cannot be listed: " in done.stderr.splitlines()[-1]


def test_without_s3fs_the_extra_is_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "s3fs.py").write_text("raise ImportError('no such module')", encoding="ascii")
    done = batches.batch(
        "s3://images",
        tmp_path / "out.parquet",
        bundle,
        PYTHONPATH=f"{tmp_path}:{batches.environment()['PYTHONPATH']}",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: s3://: s3fs is not installed")


def test_a_model_is_fetched_by_its_tag(bundle: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    files = {name: (bundle / name).read_bytes() for name in ("model.json", "model.onnx")}
    project.lock(project.push(files))
    project.commit()
    project.tag(V1.tag)
    folder = tmp_path / "chips"
    batches.write_chips(folder, 3)
    variables = {"SERVICE_REPOSITORY": project.folder, "SERVICE_STATE": tmp_path / "state"}
    done = batches.tagged(folder, tmp_path / "out.parquet", V1.tag, **variables)
    assert done.returncode == 0, done.stderr
    rows = batches.rows(tmp_path / "out.parquet")
    assert {row["model_tag"] for row in rows} == {V1.tag}
    assert {row["model_sha256"] for row in rows} == {batches.digest(bundle)}
    for tag, sentence in {
        "landcover@v9.9.9": "v9.9.9",
        "$(id)": "is not a tag of a model",
    }.items():
        done = batches.tagged(folder, tmp_path / "other.parquet", tag, **variables)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("error: ") and sentence in done.stderr
