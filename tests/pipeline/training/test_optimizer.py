"""The optimizers and their schedule."""

import pytest
import torch

from pipeline.params import Model, read_params
from pipeline.training.models import build
from pipeline.training.optimizer import ConvolutionMuon, build_optimizers, one_cycle
from tests.conftest import PARAMS


def test_the_rate_rises_to_its_peak_once_and_ends_at_nothing() -> None:
    rates = [one_cycle(step / 1000) for step in range(1001)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1, abs=1e-4) and rates[-1] == pytest.approx(0)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_muon_moves_convolutions_along_an_orthogonal_update() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    weight.requires_grad_()
    before = weight.detach().clone()
    optimizer = ConvolutionMuon([weight], lr=1.0, momentum=0.0, weight_decay=0.0)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    update = (before - weight.detach()).flatten(1)
    assert torch.linalg.svdvals(update).tolist() == pytest.approx([1.0] * 8, abs=0.45)


def test_weights_that_would_be_copied_are_refused() -> None:
    weight = torch.randn(8, 4, 3, 3, requires_grad=True)  # channels first
    with pytest.raises(ValueError, match="channels-last"):
        ConvolutionMuon([weight], lr=1.0)


def test_every_weight_has_exactly_one_optimizer() -> None:
    model = build(Model(name="test", network="resnet", width=8, dropout=0.0), 4, 10)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    muon, adam = build_optimizers(model, read_params(PARAMS).train)
    counts = [sum(w.numel() for w in o.param_groups[0]["params"]) for o in (muon, adam)]
    assert sum(counts) == sum(weight.numel() for weight in model.parameters())
    assert counts[0] > 10 * counts[1]
