"""Network -> ONNX: raw digital numbers in, probabilities and input statistics out.

Normalisation, network and output are one graph, so that nothing can differ between training and
serving. The second output is what drift detection needs; in the graph it costs a fraction of the
first convolution and the service computes nothing about pixels in Python.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from pipeline.bundle.inference import BATCH, Predictions
from pipeline.data.dataset import Dataset, at_a_time
from pipeline.errors import TrainingError
from pipeline.tasks.task import Task

OPSET = 18
ROW_STEP = 4  # statistics look at every fourth line: enough for a mean, a quarter of the cost
PARITY = 1e-4  # largest difference of a probability between torch and ONNX Runtime


class Servable(nn.Module):
    """The graph that ships."""

    def __init__(self, predictor: nn.Module, dataset: Dataset, task: Task) -> None:
        super().__init__()
        self.predictor = predictor
        self.task = task
        self.scale = dataset.scale
        self.nodata = dataset.nodata
        self.saturation = float(dataset.valid_max)

    def forward(self, chips: Tensor) -> tuple[Tensor, Tensor]:
        """(B, bands, H, W) raw -> probabilities (B, classes), statistics (B, bands, 5)."""
        numbers = chips.to(torch.float32)
        return self.task.activate(self.predictor(numbers)), self._statistics(numbers)

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
        return torch.stack((mean / scale, spread / scale, empty, saturated, rough / scale), dim=2)


def to_onnx(predictor: nn.Module, dataset: Dataset, task: Task) -> bytes:
    """Export to ONNX: input `chips`, outputs `probabilities` and `statistics`; free batch size.

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
            output_names=["probabilities", "statistics"],
            opset_version=OPSET,
            dynamic_shapes={"chips": {0: torch.export.Dim("batch", min=1)}},
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
    predictions: Predictions,
    chips: npt.NDArray[np.generic],
) -> float:
    """Hold the graph's probabilities against torch's on the same chips; return the difference.

    Raises:
        TrainingError: the largest absolute difference of a probability is over 1e-4.
    """
    model = Servable(predictor, dataset, task).cpu().eval()
    differences = []
    step = at_a_time(BATCH, chips.shape[-1])
    for start in range(0, len(chips), step):
        batch = torch.from_numpy(np.array(chips[start : start + step]))
        ours = predictions.probabilities[start : start + step]
        differences.append(np.abs(model(batch)[0].numpy() - ours).max())
    worst = float(np.max(differences))  # NaN stays NaN, and NaN is no parity
    if not worst <= PARITY:
        raise TrainingError(
            f"the exported model differs from the trained one: probabilities by up to {worst:.2e}, "
            f"wanted at most {PARITY:.0e}; nothing was written: please report the network used"
        )
    return worst
