"""A trained model -> the model bundle: graph, parity with torch, reference, manifest."""

import importlib.metadata
from datetime import UTC, datetime

from contracts.bundle import Input, Manifest, Training
from pipeline import repository, tasks
from pipeline.bundle import manifest as bundle
from pipeline.bundle.drift_reference import drift_reference
from pipeline.bundle.inference import STATISTICS, predict, session
from pipeline.bundle.onnx_graph import check_parity, to_onnx
from pipeline.bundle.quantize import choose
from pipeline.data.dataset import Dataset
from pipeline.data.prepared import Prepared
from pipeline.params import Params
from pipeline.training.models import Predictor

LIBRARIES = ("torch", "onnx", "onnxruntime", "numpy")


def export(
    predictor: Predictor,
    params: Params,
    prepared: Prepared,
    *,
    revision: str,
    seconds: float,
    hardware: str,
) -> Manifest:
    """Write the bundle to `model/`; return its manifest.

    Args:
        revision: commit of the code that trained.
        seconds: what training took.
        hardware: what it ran on.

    Raises:
        TrainingError: ONNX Runtime and torch disagree on the validation split; nothing is written.
    """
    task, dataset = tasks.find(params.model.task), prepared.dataset
    graph = to_onnx(predictor, dataset, task)
    held_out = prepared.split("validation")
    output = predict(session(graph), held_out.chips, (*task.OUTPUTS, "statistics"))
    parity = check_parity(predictor, dataset, task, output, held_out.chips)
    if params.train.quantize == "auto":
        graph, is_int8, why = choose(graph, prepared, task)
        if is_int8:
            hardware += ", quantized to int8"
            output = predict(session(graph), held_out.chips, (*task.OUTPUTS, "statistics"))
        print(f"train: {why}")
    fields = {
        "name": params.model.name,
        "classes": dataset.classes,
        "input": _input(dataset),
        "sha256": bundle.sha256(graph),
        "training": Training(
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 1),
            hardware=hardware,
            git_revision=revision,
            data_version=repository.data_version(),
            params=params.model_dump(mode="json"),
            libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
        ),
        "statistics": STATISTICS,
        "reference": drift_reference(output, dataset, task),
    }
    manifest = task.manifest(fields, output, held_out, prepared, predictor.network)
    bundle.write_bundle(graph, manifest)
    print(f"train: ONNX Runtime agrees with torch to {parity:.1e} on {len(held_out.rows)} chips")
    return manifest


def _input(dataset: Dataset) -> Input:
    return Input(
        dtype=dataset.dtype,
        bands=dataset.bands,
        height=dataset.size,
        width=dataset.size,
        scale=dataset.scale,
        offset=dataset.offset,
        units=dataset.units,
        nodata=dataset.nodata,
        valid_max=dataset.valid_max,
        resolution=dataset.resolution,
        fit=dataset.fit,
    )
