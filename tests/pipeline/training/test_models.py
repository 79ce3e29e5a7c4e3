"""Networks: any number of bands and classes, by name."""

import pytest
import torch

from pipeline.errors import ParameterError
from pipeline.params import Model
from pipeline.training.models import NETWORKS, Block, Predictor, build


def params(network: str = "resnet", width: int = 8) -> Model:
    return Model(name="test", network=network, width=width, dropout=0.0)


@pytest.mark.parametrize("network", sorted(n for n in NETWORKS if not NETWORKS[n].step))
@pytest.mark.parametrize(("bands", "classes", "size"), [(1, 2, 32), (4, 10, 64), (13, 3, 50)])
def test_every_network_takes_any_bands_and_classes(
    network: str, bands: int, classes: int, size: int
) -> None:
    model = build(params(network), bands, classes).eval()
    assert model(torch.rand(2, bands, size, size)).shape == (2, classes)


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ParameterError, match="'vgg': use one of resnet"):
        build(params("vgg"), 3, 10)


def test_a_block_starts_as_its_shortcut() -> None:
    x = torch.rand(2, 8, 16, 16)
    assert torch.equal(Block(8, 8, stride=1).eval()(x), x)


def test_a_classifier_normalises_digital_numbers_itself() -> None:
    network = torch.nn.Flatten()
    model = Predictor(network, mean=[100.0, 10.0], std=[50.0, 5.0])
    chips = torch.tensor([[[[200.0]], [[0.0]]]])
    assert model(chips).tolist() == [[2.0, -2.0]]


def test_one_seed_builds_one_network() -> None:
    torch.manual_seed(1)
    first = build(params(), 3, 10).state_dict()
    torch.manual_seed(1)
    second = build(params(), 3, 10).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
