"""The bundle: two files, complete and unaltered, or a sentence."""

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contracts.bundle import Golden
from pipeline.bundle.inference import STATISTICS, predict, session
from pipeline.bundle.manifest import read_bundle
from pipeline.data.prepared import read_prepared
from pipeline.errors import BundleError


def test_a_bundle_says_where_it_comes_from(trained: Path) -> None:
    graph, manifest = read_bundle()
    assert manifest.classes == ("class-0", "class-1", "class-2")
    assert manifest.input.bands == ("band-1", "band-2", "band-3")
    assert (manifest.input.height, manifest.input.dtype) == (32, "uint8")
    assert manifest.training.params["train"]["epochs"] == 2
    assert manifest.training.hardware and manifest.training.seconds > 0
    assert sorted(path.name for path in Path("model").iterdir()) == ["model.json", "model.onnx"]


def test_the_reference_describes_unseen_chips(trained: Path) -> None:
    manifest = read_bundle()[1]
    validation = read_prepared().split("validation")
    reference = manifest.reference
    assert reference.samples == len(validation.labels) == sum(reference.classes.values())
    assert set(reference.signals) == {
        *(f"{name}/{band}" for name in STATISTICS for band in manifest.input.bands),
        "confidence",
    }
    for histogram in reference.signals.values():
        assert sum(histogram.counts) == reference.samples
        assert list(histogram.edges) == sorted(histogram.edges)


def test_golden_chips_give_their_answers_again(trained: Path) -> None:
    graph, manifest = read_bundle()
    answers = set()
    for golden in manifest.golden:
        assert isinstance(golden, Golden)
        content = zlib.decompress(base64.b64decode(golden.chip))
        shape = (1, len(manifest.input.bands), manifest.input.height, manifest.input.width)
        chip = np.frombuffer(content, np.dtype(manifest.input.dtype).newbyteorder("<"))
        found = predict(session(graph), chip.reshape(shape), ["probabilities"])["probabilities"][0]
        assert found.tolist() == pytest.approx(list(golden.probabilities), abs=1e-5)
        answers.add(int(found.argmax()))
    assert len(answers) == len(manifest.golden) >= 1


def alter_graph() -> None:
    content = bytearray(Path("model/model.onnx").read_bytes())
    content[-1] ^= 1
    Path("model/model.onnx").write_bytes(content)


def cut_graph() -> None:
    Path("model/model.onnx").write_bytes(Path("model/model.onnx").read_bytes()[:-10])


def edit_manifest(**changes: object) -> None:
    path = Path("model/model.json")
    document = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(document), encoding="utf-8")


def link_graph() -> None:
    Path("model/model.onnx").rename("elsewhere.onnx")
    os.symlink("../elsewhere.onnx", "model/model.onnx")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (alter_graph, "altered or cut off"),
        (cut_graph, "altered or cut off"),
        (lambda: Path("model/model.onnx").unlink(), "holds model.json; a bundle is"),
        (lambda: Path("model/extra.pkl").write_bytes(b"x"), "extra.pkl"),
        (lambda: Path("model").rename("gone"), "model/ is missing"),
        (lambda: Path("model/model.json").write_bytes(b"{"), "model.json"),
        (lambda: edit_manifest(schema=2), "schema"),
        (lambda: edit_manifest(sha256="0" * 64), "altered or cut off"),
    ],
)
def test_a_damaged_bundle_is_refused(
    trained: Path, damage: Callable[[], object], words: str
) -> None:
    damage()
    with pytest.raises(BundleError, match=words):
        read_bundle()


def test_links_into_the_cache_are_followed_as_dvc_lays_them_out(trained: Path) -> None:
    """`dvc config cache.type symlink` is DVC's advice for large data on a shared cache."""
    link_graph()
    graph, manifest = read_bundle()
    assert hashlib.sha256(graph).hexdigest() == manifest.sha256
