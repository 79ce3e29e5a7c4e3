"""Stride and margin are measured, whatever the network is."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.params import Model, read_params
from pipeline.tasks.tiling import Tiling, _open, measure
from pipeline.training.models import build
from tests.conftest import ROOT


def unet(network: str = "unet") -> nn.Module:
    torch.manual_seed(0)
    return build(Model(name="m", task="segmentation", network=network, width=4, dropout=0), 3, 5)


class Global(nn.Module):
    """Adds the mean of the image to every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x.mean(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("network", "tiling"),
    [
        (nn.Sequential(nn.Conv2d(3, 5, 1)), Tiling(1, 0, True)),
        (nn.Sequential(nn.Conv2d(3, 5, 3, padding=1)), Tiling(1, 1, True)),
        (nn.Sequential(*[nn.Conv2d(3, 3, 5, padding=2)] * 4), Tiling(1, 8, True)),
        (nn.Sequential(nn.Conv2d(3, 5, 3, padding=4, dilation=4)), Tiling(1, 4, True)),
        (Global(), Tiling(1, 128, False)),
        (unet(), Tiling(4, 24, True)),
        (unet("unet-deep"), Tiling(8, 56, True)),
        (unet("pixels"), Tiling(1, 1, True)),
    ],
)
def test_the_reach_of_a_pixel_is_found(network: nn.Module, tiling: Tiling) -> None:
    assert measure(network, 3) == tiling


def test_weights_that_hide_a_path_do_not_shorten_the_margin() -> None:
    first = nn.Conv2d(3, 4, 3, padding=1)
    network = nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(-1)  # after the ReLU nothing is left
    assert measure(network, 3).margin == 2
    assert float(first.weight.detach().mean()) == -1, "the network itself is left alone"


@torch.no_grad()
def test_tiles_with_that_margin_are_the_whole_and_with_less_they_are_not() -> None:
    network = _open(unet())  # no path is closed, so that what is far away has some influence
    stride, margin, _ = measure(unet(), 3)
    image = torch.rand(1, 3, 96 + 2 * margin, 96 + 2 * margin, dtype=torch.float64)
    whole = network(image)[..., margin:-margin, margin:-margin]

    def tiled(around: int) -> Tensor:
        rows = []
        for top in range(0, 96, 32):
            row = []
            for left in range(0, 96, 32):
                first = margin - around
                lines = slice(top + first, top + first + 32 + 2 * around)
                columns = slice(left + first, left + first + 32 + 2 * around)
                row.append(network(image[..., lines, columns])[..., around:-around, around:-around])
            rows.append(torch.cat(row, dim=3))
        return torch.cat(rows, dim=2)

    assert np.abs((tiled(margin) - whole).numpy()).max() < 1e-13
    assert np.abs((tiled(margin - stride) - whole).numpy()).max() > 1e-12


def test_the_buffer_that_ships_is_as_wide_as_the_network_reaches() -> None:
    assert read_params(ROOT / "params.yaml").preprocess.buffer == 10 * measure(unet(), 3).margin
