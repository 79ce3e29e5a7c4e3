"""What is in the table: the answers of /predict, in the order of the images, for each source."""

import shutil
from pathlib import Path

import httpx
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import helper

from service.inference.bundle import read_bundle
from service.inference.model import Model
from service.inference.several import images_at_once
from tests.make import batches, images, maps, server
from tests.make.bundles import CLASSES, make_bundle, make_chip


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 chips: more than a part, and a part that is no multiple of what runs at once."""
    folder = tmp_path_factory.mktemp("chips")
    batches.write_chips(folder, 100)
    return folder


def test_the_numbers_are_those_of_predict_bit_by_bit(
    bundle: Path, chips: Path, tmp_path: Path
) -> None:
    done = batches.batch(chips, tmp_path / "out.parquet", bundle, "--workers=2")
    assert done.returncode == 0, done.stderr
    rows = batches.rows(tmp_path / "out.parquet")
    assert len(rows) == 100
    with server.serving(bundle, tmp_path / "service", workers=1, feedback="off") as running:
        for row in rows:
            content = (chips / row["path"]).read_bytes()
            answer = httpx.post(running.url + "/predict", files={"file": content}).json()
            assert (row["class"], row["probability"]) == (answer["class"], answer["probability"])
            assert {name: row[f"probability_{name}"] for name in CLASSES} == answer["probabilities"]
            assert row["model_sha256"] == answer["model"]["sha256"] and row["error"] is None
            assert row["model_tag"] == answer["model"]["tag"]


def test_a_map_is_answered_by_shares_as_predict_does(tmp_path: Path) -> None:
    model, folder = maps.make_bundle(tmp_path / "model"), tmp_path / "chips"
    folder.mkdir()
    for number in range(20):
        chip = maps.ground(maps.CHIP, maps.CHIP, number)
        chip[:, :number] = 0
        (folder / f"{number:02d}.npy").write_bytes(images.npy(chip))
    done = batches.batch(folder, tmp_path / "out.parquet", model)
    assert done.returncode == 0, done.stderr
    rows = batches.rows(tmp_path / "out.parquet")
    with server.serving(model, tmp_path / "service", workers=1, feedback="off") as running:
        for row in rows:
            content = (folder / row["path"]).read_bytes()
            answer = httpx.post(running.url + "/predict", files={"file": content}).json()
            for name in ("class", "confidence", "nodata"):
                assert row[name] == answer[name]
            assert {name: row[f"share_{name}"] for name in maps.CLASSES} == answer["shares"]
    assert len(rows) == 20 and len({row["nodata"] for row in rows}) == 20


def test_folder_list_and_archive_give_the_same_rows_in_their_own_order(
    bundle: Path, chips: Path, tmp_path: Path
) -> None:
    listed = sorted(path.relative_to(chips).as_posix() for path in chips.rglob("chip-*"))
    backwards = tmp_path / "list.txt"
    lines = [str(chips / name) for name in reversed(listed)]
    backwards.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    archive = batches.pack(chips, tmp_path / "chips.zip")
    tables = []
    for number, place in enumerate((chips, archive, backwards)):
        done = batches.batch(place, tmp_path / f"{number}.parquet", bundle)
        assert done.returncode == 0, done.stderr
        tables.append(batches.rows(tmp_path / f"{number}.parquet"))
    assert [row["path"] for row in tables[0]] == listed
    assert tables[0] == tables[1]
    assert [row.pop("path") for row in tables[2]] == lines
    assert [row.pop("path") for row in tables[0]] == listed
    assert tables[2] == tables[0][::-1]


def test_any_number_of_workers_writes_the_same_file(
    bundle: Path, chips: Path, tmp_path: Path
) -> None:
    for workers in (1, 3):
        target = tmp_path / f"{workers}.parquet"
        done = batches.batch(chips, target, bundle, f"--workers={workers}")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "3.parquet").read_bytes()


def test_images_of_another_size_are_fitted_as_predict_fits_them(
    bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chips"
    folder.mkdir()
    content = images.npy(make_chip(1, size=96)[:, :70])
    (folder / "large.npy").write_bytes(content)
    refused = batches.batch(folder, tmp_path / "out.parquet", bundle)
    assert refused.returncode == 1
    assert "--fit stretch" in batches.rows(tmp_path / "out.parquet")[0]["error"]
    found = {}
    with server.serving(bundle, tmp_path / "service", workers=1, feedback="off") as running:
        for fit in ("crop", "stretch"):
            target = tmp_path / f"{fit}.parquet"
            assert batches.batch(folder, target, bundle, "--fit", fit).returncode == 0
            url = f"{running.url}/predict?fit={fit}"
            answer = httpx.post(url, files={"file": content}).json()
            found[fit] = batches.rows(target)[0]["probability"]
            assert found[fit] == answer["probability"]
    assert found["crop"] != found["stretch"]


def test_columns_are_typed_and_named_by_class(bundle: Path, chips: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(chips / "chip-00001.npy", one)
    assert batches.batch(one, tmp_path / "out.parquet", bundle).returncode == 0
    fields = {f.name: str(f.type) for f in pq.read_schema(tmp_path / "out.parquet")}
    assert fields == {
        **{"path": "string", "class": "string", "probability": "double"},
        **{f"probability_{name}": "float" for name in CLASSES},
        **{"model_tag": "string", "model_sha256": "string", "error": "string"},
    }
    assert batches.rows(tmp_path / "out.parquet")[0]["model_sha256"] == batches.digest(bundle)


def test_several_images_run_at_once_only_where_that_changes_no_bit(
    bundle: Path, tmp_path: Path
) -> None:
    assert images_at_once(Model("local", read_bundle(bundle), "cpu")) == 16
    looks_around = make_bundle(tmp_path / "model")
    graph = onnx.load(tmp_path / "model" / "model.onnx")
    # Each answer depends on the other images of the run.
    for node in graph.graph.node:
        if node.op_type == "Softmax":
            node.input[0] = "moved"
    middle = helper.make_node("ReduceMean", ["logits"], ["middle"], axes=[0], keepdims=1)
    moved = helper.make_node("Sub", ["logits", "middle"], ["moved"])
    at = [node.op_type for node in graph.graph.node].index("Softmax")
    graph.graph.node.insert(at, moved)
    graph.graph.node.insert(at, middle)
    found = read_bundle(looks_around)._replace(graph=graph.SerializeToString())
    assert images_at_once(Model("local", found, "cpu")) == 1


def test_golden_chips_of_a_test_bundle_differ(bundle: Path) -> None:
    """Or the test above would compare equal images."""
    first, second = (one.chip for one in read_bundle(bundle).manifest.golden)
    assert first != second
