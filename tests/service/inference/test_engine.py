"""The bundle reader and the engine: what serves is whole, and computes what it did at training."""

import base64
import json
import os
import resource
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from contracts.bundle import Classification, Golden
from service.errors import BundleRefused, InvalidOutput
from service.inference.bundle import Array, Bundle, decode_chip, parse_manifest, read_bundle
from service.inference.engine import WARM_UP_RUNS, Engine
from service.inference.model import Model, Serving
from service.inference.tasks import Output, task_of
from tests.conftest import ROOT
from tests.make import images
from tests.make.bundles import CLASSES, expected, make_bundle, make_chip, make_graph

EXAMPLE = ROOT / "tests" / "bundle" / "model.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("whole") / "model", seed=3)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A bundle to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def test_the_golden_chips_of_the_example_are_unpacked() -> None:
    manifest = parse_manifest(EXAMPLE.read_bytes())
    assert manifest.input.shape == (4, 64, 64)
    for golden in manifest.golden:
        assert isinstance(golden, Golden)
        chip = decode_chip(golden.chip, manifest.input)
        assert (chip.shape, chip.dtype.name) == ((4, 64, 64), "uint16")
        assert chip.flags.c_contiguous
        assert np.isclose(sum(golden.probabilities), 1, atol=1e-5)


def refused(document: dict[str, Any]) -> str:
    """Hold a manifest to be refused; the sentence."""
    with pytest.raises(BundleRefused, match="train it again") as caught:
        parse_manifest(json.dumps(document).encode())
    return caught.value.detail


def test_a_field_that_is_missing_is_named() -> None:
    whole = json.loads(EXAMPLE.read_bytes())
    for field in sorted(set(Classification.model_fields) - {"schema_version"}):
        sentence = refused({name: value for name, value in whole.items() if name != field})
        assert f"model.json: {field}: " in sentence


UNUSABLE: dict[str, list[Any]] = {
    "schema": [2, "one", None],
    "task": ["poses", 3],
    "classes": [["one"], [], "Forest"],
    "sha256": ["0" * 63, "G" * 64, "../" + "0" * 61],
    "golden": [[], [{"chip": 1, "probabilities": []}], [{"chip": "", "probabilities": ["a"]}]],
    "input.dtype": ["float32", "O"],
    "input.bands": [[], ["x"] * 4097],
    "input.height": [0, -64],
    "input.width": [1 << 17, 64.5],
    "input.nodata": ["none"],
    "training.finished": [None],
    "reference.signals": [[1]],
}


def test_a_field_with_an_unusable_value_is_named() -> None:
    for path, values in UNUSABLE.items():
        for value in values:
            document = json.loads(EXAMPLE.read_bytes())
            part = document
            *above, last = path.split(".")
            for name in above:
                part = part[name]
            part[last] = value
            assert f"model.json: {path}" in refused(document), value


MALFORMED = {
    "empty": b"", "cut off": b"{", "list": b"[]", "null": b"null", "no UTF-8": b"\xff\xfe",
    "deep": b"[" * 100_000, "huge number": b'{"schema": 1' + b"0" * 10_000 + b"}", "zero": b"\0",
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_manifest_is_refused(name: str) -> None:
    with pytest.raises(BundleRefused, match="model.json: "):
        parse_manifest(MALFORMED[name])


def cut_off(folder: Path) -> None:
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[100] ^= 1
    (folder / "model.onnx").write_bytes(content)


def link(name: str, target: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(target.format(folder.parent / name))

    return spoil


def pipe(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def directory(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def too_large(folder: Path) -> None:
    os.truncate(folder / "model.json", (16 << 20) + 1)


def graph_too_large(folder: Path) -> None:
    os.truncate(folder / "model.onnx", (2 << 30) + 1)  # a hole: takes no room


def empty(folder: Path) -> None:
    for item in folder.iterdir():
        item.unlink()


def gone(folder: Path) -> None:
    empty(folder)
    folder.rmdir()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (cut_off, "altered or cut off"),
        (flip_a_bit, "altered or cut off"),
        (link("model.onnx", "/dev/zero"), "model.onnx is not a plain file"),
        (link("model.json", "absent"), "model.json cannot be read"),
        (pipe, "not a plain file"),
        (directory, "not a plain file"),
        (too_large, "at most 16777216 are read"),
        (graph_too_large, "at most 2147483648 are read"),
        (lambda folder: (folder / "notes").touch(), "holds model.json, model.onnx, notes; wanted"),
        (lambda folder: (folder / ".hidden").touch(), "holds .hidden, model.json, model.onnx"),
        (lambda folder: (folder / "model.onnx").unlink(), "holds model.json; wanted"),
        (lambda folder: (folder / "model.json").unlink(), "holds model.onnx; wanted"),
        (empty, "holds nothing; wanted"),
        (gone, "the model bundle is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_an_incomplete_or_altered_bundle_is_refused(
    folder: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    read_bundle(folder)
    spoil(folder)
    with pytest.raises(BundleRefused) as caught:
        read_bundle(folder)
    assert sentence in caught.value.detail
    assert str(folder.parent) not in caught.value.detail, "a path of the server is told"


def test_links_are_followed_as_dvc_lays_them_out(folder: Path) -> None:
    """`dvc config cache.type symlink`; the digest in model.json holds all the same."""
    before = read_bundle(folder)
    link("model.onnx", "{}")(folder)
    link("model.json", "{}")(folder)
    assert read_bundle(folder) == before


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


def test_a_malformed_golden_chip_is_refused() -> None:
    wanted = parse_manifest(EXAMPLE.read_bytes()).input
    size = 4 * 64 * 64 * 2
    unpackable = {
        **{"empty": "", "no base64": "!", "zeros": "AAAA", "no ASCII": "é"},
        **{"no zlib": base64.b64encode(b"no zlib").decode(), "nothing": packed(b"")},
        **{"short": packed(b"0" * (size - 1)), "long": packed(b"0" * (size + 1))},
        **{"cut off": packed(bytes(size))[:-20]},
    }
    for text in unpackable.values():
        with pytest.raises(BundleRefused, match="golden"):
            decode_chip(text, wanted)


def test_a_chip_that_would_fill_the_memory_is_not_unpacked() -> None:
    wanted = parse_manifest(EXAMPLE.read_bytes()).input
    bomb = base64.b64encode(images.deflated_gibibyte()).decode()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleRefused, match="32769 bytes, wanted 32768"):
        decode_chip(bomb, wanted)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_manifest_that_wants_enormous_chips_is_refused(folder: Path) -> None:
    document = json.loads((folder / "model.json").read_bytes())
    document["input"] |= {"height": 65536, "width": 65536}
    wanted = parse_manifest(json.dumps(document).encode()).input
    with pytest.raises(BundleRefused, match="golden"):
        decode_chip(document["golden"][0]["chip"], wanted)


def opened(folder: Path, **changes: Any) -> Engine:
    """An engine over a bundle whose manifest says something else."""
    bundle = read_bundle(folder)
    document = json.loads(bundle.document)
    document["input"] |= changes.pop("input", {})
    text = json.dumps(document | changes).encode()
    manifest = parse_manifest(text)
    return Engine(Bundle(manifest, bundle.graph, text), task_of(manifest))


def test_the_engine_answers_as_the_runtime_does(folder: Path) -> None:
    engine = opened(folder)
    engine.warm_up()
    engine.self_test()
    chips = np.stack([make_chip(number) for number in range(3)])
    answer = engine.infer(chips)
    assert answer.statistics.shape == (3, 4, 5)
    for number, chip in enumerate(chips):
        assert np.allclose(answer.probabilities[number], expected(folder, chip), atol=1e-7)


def test_a_graph_with_another_input_than_the_manifest_is_refused(folder: Path) -> None:
    others: list[dict[str, Any]] = [
        *({"dtype": "uint8"}, {"height": 32}, {"width": 63}, {"bands": ("red", "green", "blue")}),
        {"height": 65536, "width": 65536},
    ]
    for changes in others:
        with pytest.raises(BundleRefused, match="the graph takes"):
            opened(folder, input=changes)


def test_a_graph_with_other_outputs_than_the_manifest_is_refused(folder: Path) -> None:
    others: list[dict[str, Any]] = [
        {"classes": CLASSES[:9]},
        {"classes": (*CLASSES, "Desert")},
        {"statistics": ("mean",)},
    ]
    for changes in others:
        with pytest.raises(BundleRefused, match="the manifest says otherwise"):
            opened(folder, **changes).warm_up()


def golden(folder: Path, probabilities: list[float]) -> list[dict[str, Any]]:
    document = json.loads((folder / "model.json").read_bytes())
    return [document["golden"][0], document["golden"][1] | {"probabilities": probabilities}]


def off_by(folder: Path, error: float) -> list[float]:
    answer: list[float] = json.loads((folder / "model.json").read_bytes())["golden"][1][
        "probabilities"
    ]
    return [answer[0] + error, *answer[1:]]


def test_golden_answers_bear_another_rounding_and_no_more(folder: Path) -> None:
    opened(folder, golden=golden(folder, off_by(folder, 9e-4))).self_test()
    for wrong in (off_by(folder, 2e-3), off_by(folder, float("nan")), off_by(folder, 1e400)):
        with pytest.raises(BundleRefused, match="golden chip 1 is answered"):
            opened(folder, golden=golden(folder, wrong)).self_test()
    with pytest.raises(BundleRefused, match="golden chip 1 has an answer of another length"):
        opened(folder, golden=golden(folder, [1.0])).self_test()


def graph_of(nodes: list[Any], outputs: list[str], **options: Any) -> bytes:
    """A graph over chips that only a test makes."""
    chips = helper.make_tensor_value_info("chips", TensorProto.UINT16, ["batch", 4, 64, 64])
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "graph", [chips], found, **options)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def with_graph(folder: Path, graph: bytes) -> Engine:
    bundle = read_bundle(folder)
    return Engine(bundle._replace(graph=graph), task_of(bundle.manifest))


def test_a_malformed_graph_is_refused(folder: Path) -> None:
    cut_off = make_graph(1, 4, "uint16", 64)[:300]
    for graph in (b"", b"\0", b"no graph", cut_off, b"\x08\x08" * 1000):
        with pytest.raises(BundleRefused, match="graph"):
            with_graph(folder, graph)


def test_a_graph_without_the_answers_is_refused(folder: Path) -> None:
    cast = helper.make_node("Cast", ["chips"], ["probabilities"], to=TensorProto.FLOAT)
    with pytest.raises(BundleRefused, match=r"the graph gives \['probabilities'\], wanted"):
        with_graph(folder, graph_of([cast], ["probabilities"]))


def test_a_graph_that_fails_when_it_runs_is_refused(folder: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["chips"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["probabilities"]),
        helper.make_node("Identity", ["float"], ["statistics"]),
    ]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [7, 11])
    engine = with_graph(
        folder, graph_of(nodes, ["probabilities", "statistics"], initializer=[shape])
    )
    with pytest.raises(BundleRefused, match="the graph does not run"):
        engine.warm_up()


def test_a_graph_reads_no_file_of_the_server(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.arange(10, dtype=np.float32).tofile(tmp_path / "secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "secret").symlink_to(tmp_path / "secret")
    places = ("secret", "./secret", "folder/secret", "folder/../secret", "../secret", "null")
    for place in (*places, "../../etc/passwd", "/etc/passwd", str(tmp_path / "secret")):
        tensor = onnx.TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[10])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        nodes = [helper.make_node("Identity", ["stolen"], ["probabilities"])]
        nodes += [helper.make_node("Cast", ["chips"], ["statistics"], to=TensorProto.FLOAT)]
        graph = graph_of(nodes, ["probabilities", "statistics"], initializer=[tensor])
        with pytest.raises(BundleRefused, match="cannot open the graph"):
            with_graph(folder, graph)


def test_warming_up_runs_the_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, runs = opened(folder), []
    really = engine.infer

    def run(chips: Array) -> Output:
        runs.append(chips.shape)
        return really(chips)

    monkeypatch.setattr(engine, "infer", run)
    engine.warm_up()
    assert runs == [(1, 4, 64, 64)] * WARM_UP_RUNS


def test_switching_keeps_one_model_for_a_rollback(folder: Path, tmp_path: Path) -> None:
    serving = Serving()
    first = Model("local", read_bundle(folder))
    second = Model(
        "landcover@v1.0.0", read_bundle(make_bundle(tmp_path / "second", seed=4, classes=CLASSES))
    )
    serving.switch(first)
    assert (serving.model(), serving.previous) == (first, None)
    serving.switch(second)
    assert (serving.model(), serving.previous) == (second, first)


def test_names_of_any_kind_make_a_whole_answer(tmp_path: Path) -> None:
    names = ("100 %", '"quoted"', "back\\slash", "%s", "{0}", "Wälder", "a\nb", *CLASSES[:3])
    model = Model(
        "landcover@v1.0.0",
        read_bundle(make_bundle(tmp_path / "model", classes=names, name="100 %s")),
    )
    outcome = model.task.read(model.infer(make_chip(1)))
    best, found = outcome.best, json.loads(model.render(outcome, "abc"))
    assert tuple(found["probabilities"]) == names
    assert (
        found["class"] == names[best] == max(found["probabilities"], key=found["probabilities"].get)
    )
    assert found["model"]["name"] == "100 %s"


def test_probabilities_that_are_not_finite_are_no_answer(folder: Path) -> None:
    model = Model("landcover@v1.0.0", read_bundle(folder))
    output = model.infer(make_chip(1))
    for value in (np.nan, np.inf, -np.inf):
        for place in (0, 3, -1):
            probabilities = output.probabilities.copy()
            probabilities[0, place] = value
            with pytest.raises(InvalidOutput, match="probabilities that are NaN or infinite"):
                model.task.read(output._replace(probabilities=probabilities))
