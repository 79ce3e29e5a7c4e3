"""What a run computes on: device, precision, threads, and their names for the record."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.errors import TrainingError
from pipeline.params import Train

TIMED = 3  # steps that are timed for each number of threads, after one to warm up
PATIENCE = 1.5  # all threads are used unless they take more than this times what one thread takes


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


def choose_threads(
    step: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> int:
    """Set torch to all threads, or to one where all are much slower; return the number.

    Threads that share their cores with other programs wait for each other in every operation:
    training can then be thirty times slower than with one thread. On cores that are free the choice
    is always all threads. `OMP_NUM_THREADS` in the environment is respected, and nothing is timed.

    Args:
        step: does a step of training on copies; its results are thrown away.
        clock: seconds.
    """
    most = torch.get_num_threads()
    if most == 1 or os.environ.get("OMP_NUM_THREADS"):
        return most
    one = _seconds(step, 1, float("inf"), clock)
    if _seconds(step, most, PATIENCE * one, clock) <= PATIENCE * one:
        print(f"train: {most} CPU threads")
        return most
    torch.set_num_threads(1)
    print(
        f"train: 1 CPU thread: {most} take more than {PATIENCE:g} times as long, other programs "
        f"keep the cores busy (OMP_NUM_THREADS={most} uses them all the same)"
    )
    return 1


def keep_threads(threads: int) -> None:
    """Set torch to the number of threads that a resumed run had, but for `OMP_NUM_THREADS`."""
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(threads)


def _seconds(
    step: Callable[[], object], threads: int, limit: float, clock: Callable[[], float]
) -> float:
    """Time some steps; stop once they have taken longer than `limit` seconds."""
    torch.set_num_threads(threads)
    step()
    started = clock()
    for _ in range(TIMED):
        step()
        if clock() - started > limit:
            break
    return clock() - started


def describe(device: torch.device, precision: torch.dtype, processes: int = 1) -> str:
    """One line for the record, for example `AMD EPYC, 2 cores, 2 threads, bfloat16`."""
    dtype = str(precision).removeprefix("torch.")
    if processes > 1:
        dtype += f", {processes} processes"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {dtype}"
    threads = torch.get_num_threads()
    plural = "s" if threads > 1 else ""
    return f"{_cpu_name()}, {os.cpu_count()} cores, {threads} thread{plural}, {dtype}"


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
