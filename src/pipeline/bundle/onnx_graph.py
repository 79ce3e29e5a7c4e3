"""Network -> ONNX: raw digital numbers in, answers and input statistics out.

Normalisation, network and output are one graph, so that nothing can differ between training and
serving. The output `statistics` is what drift detection needs; in the graph it costs a fraction of
the first convolution and the service computes nothing about pixels in Python.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from pipeline.bundle.inference import BATCH
from pipeline.data.dataset import Dataset, at_a_time
from pipeline.errors import TrainingError
from pipeline.tasks.task import Output, Task

OPSET = 18
ROW_STEP = 4  # statistics look at every fourth line: enough for a mean, a quarter of the cost


class Servable(nn.Module):
    """The graph that ships."""

    def __init__(self, predictor: nn.Module, dataset: Dataset, task: Task) -> None:
        super().__init__()
        self.predictor = predictor
        self.task = task
        self.scale, self.offset = dataset.scale, dataset.offset
        self.nodata = dataset.nodata
        self.saturation = float(dataset.valid_max)

    def forward(self, chips: Tensor) -> tuple[Tensor, ...]:
        """(B, bands, H, W) raw -> the answers of the task, and statistics (B, bands, 5)."""
        numbers = chips.to(torch.float32)
        answers = self.task.answer(self.predictor(numbers), numbers, self.nodata)
        return *answers, self._statistics(numbers)

    def _statistics(self, numbers: Tensor) -> Tensor:
        """Mean, spread, share of empty and of saturated pixels, and roughness of each band.

        Mean, std and roughness (mean step between neighbours on a line: falls with blur) are in
        the units of the data set; the shares are 0..1.
        """
        lines = numbers[:, :, ::ROW_STEP, :]
        mean = lines.mean(dim=(2, 3))
        spread = (lines - mean[:, :, None, None]).square().mean(dim=(2, 3)).sqrt()
        empty = torch.zeros_like(mean)
        if self.nodata is not None:
            empty = (lines == float(self.nodata)).to(torch.float32).mean(dim=(2, 3))
        saturated = (lines >= self.saturation).to(torch.float32).mean(dim=(2, 3))
        rough = (lines[..., 1:] - lines[..., :-1]).abs().mean(dim=(2, 3))
        scale = self.scale
        if self.offset:
            mean = mean + self.offset
        return torch.stack((mean / scale, spread / scale, empty, saturated, rough / scale), dim=2)


def to_onnx(predictor: nn.Module, dataset: Dataset, task: Task) -> bytes:
    """Export to ONNX: input `chips`, outputs of the task and `statistics`; free batch size.

    Of a task with answers for places height and width are free, too: multiples of the stride.

    The same weights give the same bytes.
    """
    model = Servable(predictor, dataset, task).cpu().eval()
    shape = (2, len(dataset.bands), dataset.size, dataset.size)
    example = torch.zeros(shape, dtype=getattr(torch, dataset.dtype))
    with _quiet_exporter():
        program = torch.onnx.export(
            model,
            (example,),
            input_names=["chips"],
            output_names=[*task.OUTPUTS, "statistics"],
            opset_version=OPSET,
            dynamic_shapes={"chips": _free_dimensions(predictor, task)},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _anonymise(proto)
    onnx.checker.check_model(proto, full_check=True)
    buffer = io.BytesIO()
    onnx.save_model(proto, buffer)
    return buffer.getvalue()


def _free_dimensions(predictor: nn.Module, task: Task) -> dict[int, Any]:
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if task.STEP:
        stride = int(getattr(predictor.network, "stride", 1))
        for axis, name in ((2, "height"), (3, "width")):
            free[axis] = stride * torch.export.Dim(name, min=1, max=2**20)
    return free


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says about itself: torchvision is absent, a class is deprecated."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _anonymise(proto: onnx.ModelProto) -> None:
    """Drop what the exporter notes about this machine: stack traces with paths, for one."""
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]


@torch.no_grad()
def check_parity(
    predictor: nn.Module,
    dataset: Dataset,
    task: Task,
    output: Output,
    chips: npt.NDArray[np.generic],
) -> float:
    """Hold the graph's answers against torch's on the same chips; return the difference.

    Raises:
        TrainingError: it is larger than the task allows.
    """
    model = Servable(predictor, dataset, task).cpu().eval()
    differences = []
    step = at_a_time(BATCH, chips.shape[-1])
    for start in range(0, len(chips), step):
        batch = torch.from_numpy(np.array(chips[start : start + step]))
        ours = dict(zip(task.OUTPUTS, (array.numpy() for array in model(batch)), strict=False))
        theirs = {name: output[name][start : start + step] for name in task.OUTPUTS}
        differences.append(task.difference(ours, theirs))
    worst = float(np.max(differences))  # NaN stays NaN, and NaN is no parity
    if not worst <= task.PARITY:
        raise TrainingError(
            f"the exported model differs from the trained one: {' and '.join(task.OUTPUTS)} by up "
            f"to {worst:.2e}, wanted at most {task.PARITY:.0e}; nothing was written: please report "
            f"the network used"
        )
    return worst
