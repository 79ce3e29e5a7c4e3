"""Starts the processes of `train.processes` on this machine, and starts them again after a death.

torchrun (torch.distributed.run) does it, called as a library. A rank that dies ends the others; all
of them go on from the checkpoint, at most RESTARTS times. A rank that ends with a sentence, such as
a loss that is NaN, would do so again: that sentence ends the training.
"""

import logging
import os
import shutil
import sys
import uuid
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline import paths
from pipeline.errors import ParameterError, TrainingError
from pipeline.params import Train
from pipeline.training.hardware import choose_device
from pipeline.training.processes import PeerLost, check, find_place

RESTARTS = 3
PER_CORE = 4  # processes, at most: more only take memory from each other
PASSING = {PeerLost.__name__, "AcceleratorError"} | {
    f"Dist{part}Error" for part in ("Backend", "Network", "Store")
}
"""Names of exceptions that a restart may mend: the network's and the GPU's."""


def is_launcher(params: Train) -> bool:
    """Whether several processes are wanted, and no one has started them."""
    if dist.is_initialized() or find_place() is not None:
        return False
    return params.nodes > 1 or local_processes(params) > 1


def local_processes(params: Train) -> int:
    """How many processes this machine is to have.

    `auto` is one for each GPU. On a CPU it is one: with as many threads as cores it is as fast as
    as many processes, and says nothing to itself over a network.
    """
    if isinstance(params.processes, int):
        return params.processes
    return torch.cuda.device_count() if choose_device(params.device).type == "cuda" else 1


def launch(params: Train, module: str) -> None:
    """Run `python -m module` in several processes until all of them have ended well.

    Raises:
        ParameterError: the parameters do not fit each other or this machine.
        TrainingError: a rank failed; names it and says why.
    """
    _check_machine(params)
    check(params, local_processes(params))
    shutil.rmtree(paths.RANK_LOGS, ignore_errors=True)
    for variable, value in _quiet_environment().items():
        os.environ.setdefault(variable, value)
    if "LOGLEVEL" not in os.environ:
        logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    for restart in range(RESTARTS + 1):
        try:
            elastic_launch(_configuration(params), sys.executable)("-m", module)
            return
        except SignalException as end:
            sys.exit(128 + int(end.sigval))
        except ChildFailedError as error:
            failure = _read(error)
            if not failure.is_passing or restart == RESTARTS:
                tried = f" (after {restart} restarts)" if restart else ""
                raise TrainingError(
                    f"{failure}{tried}; the logs of all ranks are in {paths.RANK_LOGS}/"
                ) from None
            print(
                f"train: {failure}: all start again from the last checkpoint, "
                f"{restart + 1} of {RESTARTS} times",
                file=sys.stderr,
            )


def _check_machine(params: Train) -> None:
    if params.nodes > 1:
        raise ParameterError(
            f"params.yaml: train.nodes is {params.nodes}, and nothing says where the other "
            "machines are: start `python -m pipeline.train` on all of them by torchrun, srun or a "
            "TrainJob (docs/training-on-many.md)"
        )
    processes, cores = local_processes(params), os.cpu_count() or 1
    if choose_device(params.device).type == "cuda":
        if processes > (gpus := torch.cuda.device_count()):
            raise ParameterError(
                f"params.yaml: train.processes is {processes}, but torch sees {gpus} GPUs here: "
                "use auto, or set train.device to cpu"
            )
    elif processes > PER_CORE * cores:
        raise ParameterError(
            f"params.yaml: train.processes is {processes}, but this machine has {cores} CPU cores "
            f"and no GPU for them: use at most {cores}"
        )


def _quiet_environment() -> dict[str, str]:
    """Variables of the ranks that the caller has not set."""
    return {
        "PYTHONUNBUFFERED": "1",  # each rank's lines appear when they are written
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    } | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})


def _configuration(params: Train) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=local_processes(params),
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        rdzv_configs={"is_host": "1"},
        local_addr="127.0.0.1",
        max_restarts=0,  # here, where a sentence can be told from a death
        logs_specs=DefaultLogsSpecs(str(paths.RANK_LOGS), tee=Std.ALL),
        log_line_prefix_template="[rank ${rank}] ",
    )


@dataclass(frozen=True)
class _Failure:
    """The rank that failed first."""

    rank: int
    kind: str
    """Name of the exception; empty where there was none."""
    message: str

    @property
    def is_passing(self) -> bool:
        """Whether a restart may mend it."""
        return not self.kind or self.kind in PASSING

    def __str__(self) -> str:
        return f"rank {self.rank}: {self.message}"


def _read(error: ChildFailedError) -> _Failure:
    rank, failure = error.get_first_failure()
    message: Any = failure.message  # a dictionary where the rank has written one
    if isinstance(message, dict):
        kind, _, said = str(message["message"]).partition(": ")
        return _Failure(rank, kind, said)
    if failure.exitcode < 0:
        return _Failure(rank, "", f"killed by {failure.signal_name()}")
    return _Failure(rank, "SystemExit", f"ended with exit code {failure.exitcode}")
