"""The optimizers: Muon for convolutions, AdamW for everything else."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.params import Train

WARM_UP = 0.25  # share of the steps in which the learning rate rises
ADAM_RATE = 0.25  # AdamW's learning rate, as a share of Muon's


class ConvolutionMuon(torch.optim.Muon):
    """`torch.optim.Muon`, which takes matrices only, over convolution weights seen as matrices.

    Muon orthogonalises each update, so that every direction of a filter bank moves alike (Jordan
    et al. 2024, https://kellerjordan.github.io/posts/muon/). A weight (out, in, k, k) is the matrix
    (out, k * k * in): a view of the channels-last weight, nothing is copied.
    """

    def __init__(self, weights: list[Tensor], **options: Any) -> None:
        self._weights = weights
        super().__init__([_as_matrix(weight.detach()) for weight in weights], **options)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the convolutions from their gradients."""
        assert closure is None
        for matrix, weight in zip(self.param_groups[0]["params"], self._weights, strict=True):
            assert weight.grad is not None
            matrix.grad = weight.grad.permute(0, 2, 3, 1).flatten(1)
        super().step()  # type: ignore[no-untyped-call]


def _as_matrix(weight: Tensor) -> Tensor:
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    if matrix.data_ptr() != weight.data_ptr():
        raise ValueError(
            "convolution weights must be channels-last for Muon to see them as matrices"
        )
    return matrix


def build_optimizers(model: nn.Module, params: Train) -> list[torch.optim.Optimizer]:
    """Muon over the convolutions but the first, AdamW over the rest (as Muon's authors advise)."""
    first, *convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    matrices = [module.weight for module in convolutions]
    known = {id(weight) for weight in matrices}
    rest = [weight for weight in model.parameters() if id(weight) not in known]
    return [
        ConvolutionMuon(
            matrices,
            lr=params.learning_rate,
            momentum=0.9,
            weight_decay=params.weight_decay,
            ns_steps=3,  # as accurate as the usual 5 here, in two thirds of the time
        ),
        torch.optim.AdamW(
            rest, lr=ADAM_RATE * params.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        ),
    ]


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate at `progress` 0..1: up and down on cosines (Smith 2018)."""
    if progress < WARM_UP:
        return 0.5 * (1 - math.cos(math.pi * (progress / WARM_UP)))
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))
