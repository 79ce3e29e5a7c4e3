"""The first line of every benchmark: what it ran on."""

import importlib.metadata
import platform

import torch

from pipeline.training.hardware import choose_device, describe

LIBRARIES = ("torch", "numpy", "onnxruntime")


def line() -> str:
    """Hardware and versions, in one line."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    hardware = describe(choose_device("auto"), torch.float32).removesuffix(", float32")
    return f"{hardware}; Python {platform.python_version()}, {versions}"
