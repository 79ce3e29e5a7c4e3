"""Chips to the device, a batch at a time."""

import torch
from torch import Tensor

from pipeline.data.prepared import Split

GPU_SHARE = 0.5  # of the free GPU memory that the data may take; the rest is for the network


class Batches:
    """The chips of one split, on the GPU where they fit, else in memory."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._device = device
        # Few kernels know uint16; gathering moves bits, so int16 does as well.
        self._is_uint16 = split.chips.dtype == "uint16"
        self._chips = torch.from_numpy(
            split.chips.view("int16") if self._is_uint16 else split.chips
        )
        self._labels = torch.from_numpy(split.labels)
        if device.type == "cuda" and self._chips.nbytes < GPU_SHARE * torch.cuda.mem_get_info()[0]:
            self._chips = self._chips.to(device)
            self._labels = self._labels.to(device)

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Chips (B, bands, H, W), digital numbers as float32, and labels, on the device.

        Labels are (B,), maps (B, H, W), or boxes (B, K, 5), which are float32.
        """
        rows = rows.to(self._labels.device)
        chips = self._chips[rows].to(self._device, non_blocking=True)
        if self._is_uint16:
            chips = chips.to(torch.int32) & 0xFFFF
        chips = chips.to(torch.float32, memory_format=torch.channels_last)
        labels = self._labels[rows]
        dtype = torch.float32 if labels.is_floating_point() else torch.int64
        return chips, labels.to(self._device, dtype, non_blocking=True)
