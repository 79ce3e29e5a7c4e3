"""The networks, and a table of their names. A new one is a function and a row in `NETWORKS`.

A network maps normalised chips (B, bands, H, W) to feature maps, and its head maps those to logits.
The head belongs to the task: a network gets a function that makes one for a number of features.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class UNet(nn.Module):
    """A small U-Net (Ronneberger et al. 2015): an answer each `step` pixels, from what is around.

    Nothing in it looks at the whole image, so that a scene can be mapped tile by tile, exactly.
    """

    def __init__(self, bands: int, width: int, depth: int, head: Head, step: int = 1) -> None:
        super().__init__()
        self.stride = step * 2**depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _two_convolutions(inputs, outputs, 1 if level else step)
            for level, (inputs, outputs) in enumerate(zip([bands, *widths], widths, strict=False))
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * outputs, outputs, 2, stride=2) for outputs in widths[-2::-1]
        )
        self.merge = nn.ModuleList(
            _two_convolutions(2 * outputs, outputs) for outputs in widths[-2::-1]
        )
        self.head = head(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, bands, H, W) -> (B, logits, H/step, W/step); H and W are multiples of `stride`."""
        skipped = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)  # (B, 2^level width, H/2^level, ...)
            skipped.append(x)
        skipped.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat((skipped.pop(), up(x)), dim=1))
        logits: Tensor = self.head(x)
        return logits


class Pixels(nn.Module):
    """Each pixel from the 3 x 3 around it: of few labels a wider look learns places by heart."""

    def __init__(self, bands: int, width: int, head: Head) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(ConvNorm(bands, width // 2, 1), nn.ReLU()),
            *(ConvNorm(width // 2, width, 3), nn.ReLU()),
            *(ConvNorm(width, width, 1), nn.ReLU()),
        )
        self.head = head(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, bands, H, W) -> (B, logits, H, W)."""
        logits: Tensor = self.head(self.layers(x))
        return logits


def _two_convolutions(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    first, second = ConvNorm(inputs, outputs, 3, stride), ConvNorm(outputs, outputs, 3)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


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


class Network(NamedTuple):
    """A row of the table of networks."""

    build: Callable[[int, Head, Model], nn.Module]
    """From bands, head and parameters."""
    step: int = 0
    """Pixels from one feature to the next; 0: the head looks at all of them."""


NETWORKS: dict[str, Network] = {
    "resnet": Network(lambda bands, head, p: ResNet(bands, p.width, (1, 1, 1, 1), head)),
    "resnet-deep": Network(lambda bands, head, p: ResNet(bands, p.width, (1, 2, 2, 1), head)),
    "unet": Network(lambda bands, head, p: UNet(bands, p.width, 2, head), step=1),
    "unet-deep": Network(lambda bands, head, p: UNet(bands, p.width, 3, head), step=1),
    "pixels": Network(lambda bands, head, p: Pixels(bands, p.width, head), step=1),
    "unet-half": Network(lambda bands, head, p: UNet(bands, p.width, 3, head, step=2), step=2),
}


def build(params: Model, bands: int, classes: int) -> nn.Module:
    """Build the network that `model.network` names, with the head of `model.task`.

    Raises:
        ParameterError: no task has that name, or no network that does for it.
    """
    task = tasks.find(params.task)
    able = [name for name, network in NETWORKS.items() if network.step == task.STEP]
    if params.network not in able:
        why = f", as model.task is {params.task}" if params.network in NETWORKS else ""
        raise ParameterError(
            f"params.yaml: model.network is {params.network!r}: use one of {', '.join(able)}{why}"
        )
    return NETWORKS[params.network].build(
        bands, lambda features: task.head(features, classes, params.dropout), params
    )
