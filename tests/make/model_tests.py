"""Definitions and stand-ins for tests of a model."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.bundle.manifest import read_bundle, sha256, write_bundle
from pipeline.model_tests.runner import Answer


def write_tests(tests: dict[str, Any], **more: Any) -> None:
    """Write tests.yaml into the working directory."""
    Path("tests.yaml").write_text(yaml.safe_dump({"tests": tests} | more), encoding="utf-8")


def make_brittle(means: tuple[float, ...] = (40, 85, 130)) -> None:
    """Replace the graph in model/ by one that sees the mean brightness of a chip, and nothing else.

    It answers the class of the nearest of `means`: those of `tests.conftest.chip`.
    """
    import onnx  # the processes of Scripted are started often, and need none of it
    from onnx import TensorProto, helper

    values = {"axes": [1, 2, 3], "shape": [-1, 1]}
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [len(of)], of) for name, of in values.items()
    ]
    constants.append(helper.make_tensor("means", TensorProto.FLOAT, [1, len(means)], means))
    nodes = [
        helper.make_node("Cast", ["chips"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["mean"]),
        helper.make_node("Reshape", ["mean", "shape"], ["flat"]),
        helper.make_node("Sub", ["flat", "means"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["distance"]),
        helper.make_node("Neg", ["distance"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brittle",
        [helper.make_tensor_value_info("chips", TensorProto.UINT8, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(means)])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    _, manifest = read_bundle()
    write_bundle(content, manifest.model_copy(update={"sha256": sha256(content)}))


@dataclass(frozen=True)
class Scripted:
    """Work whose answers are written down: name -> what happens at each attempt, the last for ever.

    hold, miss, none (not applicable), raise, kill (the process dies), hang, or wait (a moment, then
    hold).
    """

    folder: Path
    script: dict[str, str]

    def __call__(self, name: str) -> Answer:
        """Do what stands there, and record when it began and ended."""
        attempts = self.folder / f"{name}.attempts"
        with attempts.open("a", encoding="utf-8") as file:
            file.write(".")
        steps = self.script[name].split()
        step = steps[min(attempts.stat().st_size, len(steps)) - 1]
        begun = time.monotonic()
        if step == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == "raise":
            raise RuntimeError("as the script says")
        time.sleep({"hang": 60.0, "wait": 0.2}.get(step, 0.0))
        (self.folder / name).write_text(f"{begun} {time.monotonic()}", encoding="utf-8")
        states = {"miss": "missed", "none": "not applicable"}
        return Answer(states.get(step, "held"), step)

    def span(self, name: str) -> tuple[float, float]:
        """When the last attempt of a test began and ended."""
        begun, ended = (self.folder / name).read_text(encoding="utf-8").split()
        return float(begun), float(ended)
