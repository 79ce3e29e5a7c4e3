"""Where a graph runs: the execution provider of ONNX Runtime, by SERVICE_DEVICE.

The CUDA build lists its provider on any machine, and falls back to the CPU without an error. What a
session says of itself decides.
"""

import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import onnxruntime

from service.errors import Unavailable

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Whole floats: with TF32 a probability would be off by about the tolerance of the self-test.
CUDA_OPTIONS = {"use_tf32": "0"}
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
ARENA = 1 << 30  # bytes that are reserved, not taken
NO_BUILD = (
    "SERVICE_DEVICE is 'cuda', and this build of ONNX Runtime has no CUDA: build the image with "
    "RUNTIME=cuda, or set SERVICE_DEVICE=cpu"
)
NO_GPU = (
    "SERVICE_DEVICE is 'cuda', and ONNX Runtime cannot use a GPU here, the log has its reason: "
    "give the pod one (k8s/components/gpu), or set SERVICE_DEVICE=cpu"
)

log = logging.getLogger("service.inference.providers")


def choose(wanted: str, built_in: Sequence[str]) -> str:
    """The provider to try: of `cpu`, `cuda` and `auto`, by what the build has.

    Raises:
        Unavailable: it is not built in.
    """
    if wanted == "cpu":
        return CPU
    if CUDA in built_in:
        return CUDA
    if wanted == "cuda":
        raise Unavailable(NO_BUILD)
    return CPU


def open_session(graph: bytes, wanted: str, lean: bool = False) -> Any:
    """Open a graph with the provider that a setting wants.

    One that is `lean` takes up to two fifths less memory where arrays are large: see `_spare`.

    Raises:
        Unavailable: it wants CUDA, and there is none.
        Exception: the runtime cannot read the graph; its errors share no base but this.
    """
    chosen = choose(wanted, onnxruntime.get_available_providers())
    if chosen == CPU:
        return onnxruntime.InferenceSession(graph, _options(lean), providers=[CPU])
    with redirect_stdout(StringIO()) as said:  # the runtime prints why it falls back
        onnxruntime.preload_dlls()  # the libraries that pip installed beside it
        session = onnxruntime.InferenceSession(
            graph, _options(lean), providers=[(CUDA, CUDA_OPTIONS), CPU]
        )
    if provider_of(session) == CUDA:
        return session
    log.warning("no GPU: ONNX Runtime uses the CPU", extra={"detail": said.getvalue()[-500:]})
    if wanted == "cuda":
        raise Unavailable(NO_GPU)
    return session


def provider_of(session: Any) -> str:
    """The first choice of a session, by what became of it."""
    return str(session.get_providers()[0])


def _options(lean: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    if lean:
        _spare(options)
    # Measured: one thread a process beats one session over all cores, and spinning burns the
    # core that the other worker needs (docs/benchmarks.md).
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    # A graph may name files for its weights, and would get those below the working directory.
    options.add_session_config_entry(WEIGHTS_FOLDER, "/dev/null")
    return options


def _spare(options: onnxruntime.SessionOptions) -> None:
    """Spare memory that the runtime would hold and not use, in all sessions of this process.

    It would plan a second block beside the one that it has, and let that grow by doubling, in
    pieces that do not fit what comes next. One large block is only taken as far as it is used.
    """
    options.enable_mem_pattern = False
    arena = onnxruntime.OrtArenaCfg({"initial_chunk_size_bytes": ARENA})
    kind, place = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo("Cpu", kind, 0, place), arena
    )
    options.add_session_config_entry("session.use_env_allocators", "1")
