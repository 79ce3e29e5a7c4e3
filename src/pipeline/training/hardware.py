"""What a run computes on: device, precision, and their names for the record."""

import os
import platform
from pathlib import Path

import torch

from pipeline.errors import TrainingError
from pipeline.params import Train


def choose_device(wanted: str) -> torch.device:
    """The device of `train.device`; `auto` is a GPU where there is one.

    Raises:
        TrainingError: cuda is wanted and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "train.device is cuda, but torch sees no GPU here: set it to auto or cpu, or check "
            "the driver (nvidia-smi) and that torch is a CUDA build "
            f"(this is {torch.__version__})"
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def choose_precision(params: Train, device: torch.device) -> torch.dtype:
    """The type the network computes in: bfloat16 only where the hardware multiplies it itself."""
    if params.precision != "auto":
        return torch.float32 if params.precision == "float32" else torch.bfloat16
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and newer
    else:
        native = "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()
    return torch.bfloat16 if native else torch.float32


def describe(device: torch.device, precision: torch.dtype) -> str:
    """One line for the record, for example `AMD EPYC, 2 cores, bfloat16`."""
    dtype = str(precision).removeprefix("torch.")
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {dtype}"
    return f"{_cpu_name()}, {os.cpu_count()} cores, {dtype}"


def _cpu_field(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _cpu_flags() -> set[str]:
    return set(_cpu_field("flags").split())


def _cpu_name() -> str:
    return _cpu_field("model name") or platform.machine()
