"""The networks, and a table of their names. A new one is a function and a row in `NETWORKS`.

A network maps normalised chips (B, bands, H, W) to feature maps, and its head maps those to logits.
The head belongs to the task: a network gets a function that makes one for a number of features.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline import tasks
from pipeline.errors import ParameterError
from pipeline.params import Model

Head = Callable[[int], nn.Module]


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch norm; the two become one convolution at export."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride)
        self.second = ConvNorm(outputs, outputs, 3)
        # A block starts as its shortcut, so that depth does not slow the first steps down
        # (Goyal et al. 2017, section 5.1).
        norm = self.second[1]
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride > 1:
            # Averaging before the 1 x 1 convolution loses no pixel (He et al. 2019, ResNet-D).
            # ceil_mode: as the strided convolution, where the size is odd.
            pool = nn.AvgPool2d(stride, ceil_mode=True)
            self.shortcut = nn.Sequential(pool, ConvNorm(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """A small residual network for chips of 32 to 128 pixels."""

    def __init__(self, bands: int, width: int, blocks: tuple[int, ...], head: Head) -> None:
        super().__init__()
        self.stem = ConvNorm(bands, width, 3, stride=2)
        stages: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for index in range(count):
                stages.append(Block(inputs, outputs, stride=2 if stage and not index else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = head(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, bands, H, W) -> logits, (B, classes) for a classifier."""
        x = torch.relu(self.stem(x))  # (B, width, H/2, W/2)
        x = self.stages(x)  # (B, 8 width, H/16, W/16)
        logits: Tensor = self.head(x)
        return logits


class Predictor(nn.Module):
    """A network with its normalisation and its temperature: digital numbers in, logits out.

    They are part of the model so that training and serving cannot differ.
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))  # digital numbers
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.register_buffer("temperature", torch.tensor(1.0))  # set after training

    def forward(self, chips: Tensor) -> Tensor:
        """(B, bands, H, W) digital numbers, float32 -> logits."""
        logits: Tensor = self.network((chips - self.mean) / self.std)
        return logits / self.temperature


Builder = Callable[[int, Head, Model], nn.Module]

NETWORKS: dict[str, Builder] = {
    "resnet": lambda bands, head, p: ResNet(bands, p.width, (1, 1, 1, 1), head),
    "resnet-deep": lambda bands, head, p: ResNet(bands, p.width, (1, 2, 2, 1), head),
}


def build(params: Model, bands: int, classes: int) -> nn.Module:
    """Build the network that `model.network` names, with the head of `model.task`.

    Raises:
        ParameterError: no network, or no task, has that name.
    """
    if params.network not in NETWORKS:
        raise ParameterError(
            f"params.yaml: model.network is {params.network!r}: use one of {', '.join(NETWORKS)}"
        )
    task = tasks.find(params.task)
    return NETWORKS[params.network](
        bands, lambda features: task.head(features, classes, params.dropout), params
    )
