"""Several processes that train one model together, on one machine or many.

Each process, a rank, computes the gradient of its share of every batch; the sum of all of them is
the gradient of the batch, and each rank takes the same step with it. Rank 0 measures and writes.

Who starts the processes says so in the environment, as torchrun does: RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR and MASTER_PORT. Kubeflow's Trainer runs torchrun, the names of Slurm's srun are
translated, and Ray's TorchTrainer has joined the processes before it calls the stage. Where no one
has started any, `pipeline.training.launch` does.
"""

import ctypes
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import ParameterError, TrainingError
from pipeline.params import Train
from pipeline.training.hardware import choose_device

ARRIVAL = timedelta(minutes=15)  # for all ranks to start: a node may have to pull an image
ANSWER = timedelta(minutes=30)  # for what the others wait for, such as validation by rank 0
GRACE = 10.0  # seconds in which torchrun finds out which rank died, before the others say so
PR_SET_PDEATHSIG = 1  # prctl(2)
SLURM = {
    "RANK": "SLURM_PROCID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
    "LOCAL_RANK": "SLURM_LOCALID",
}
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class PeerLost(TrainingError):
    """Another rank is gone: the group can go on from its checkpoint."""


@dataclass(frozen=True)
class Group:
    """The ranks that train together, seen from one of them; alone, nothing is sent."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank measures and writes."""
        return self.rank == 0

    def shard(self, rows: Tensor) -> Tensor:
        """Return the rows of a batch that are this rank's: all ranks together have each once."""
        return torch.tensor_split(rows, self.size)[self.rank]

    def draw(self, seed: int) -> torch.Generator | None:
        """Let torch draw for this rank alone; return a generator that draws alike on all ranks.

        Args:
            seed: of the epoch, with which torch has drawn alike on all ranks so far.
        """
        if self.size == 1:
            return None
        own = np.random.SeedSequence((seed, self.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(own[0] >> 1))
        return torch.Generator().manual_seed(seed)

    def add(self, *tensors: Tensor) -> None:
        """Replace tensors by their sums over all ranks.

        They travel as one, always in this order: a run that goes on after a restart adds the same
        numbers in the same order. (DistributedDataParallel sorts them anew after its first step.)
        """
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            _wait_for(dist.all_reduce, flat)
            _unpack(flat, tensors)

    def add_gradients(self, model: nn.Module) -> None:
        """Add up the gradients of all ranks."""
        self.add(*(weight.grad for weight in model.parameters() if weight.grad is not None))

    @torch.no_grad()
    def level(self, model: nn.Module) -> None:
        """Give each rank the mean of all statistics of batch norm, and the weights of rank 0.

        Each rank has normalised by its own share of a batch; with the mean, validation and export
        do not depend on what rank 0 happened to see. The weights differ only between machines of
        different kinds, whose last bits do.
        """
        if self.size == 1:
            return
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        found = [seen for norm in norms for seen in (norm.running_mean, norm.running_var)]
        seen_by_all = [statistic for statistic in found if statistic is not None]
        if seen_by_all:
            self.add(*seen_by_all)
            for statistic in seen_by_all:
                statistic.div_(self.size)
        weights = list(model.parameters())
        flat = torch.cat([weight.flatten() for weight in weights])
        _wait_for(dist.broadcast, flat, src=0)
        _unpack(flat, weights)

    def share(self, value: Any) -> Any:
        """Return what rank 0 passes: numbers, text and tensors, in dictionaries, lists, tuples."""
        if self.size == 1:
            return value
        buffer = io.BytesIO()
        if self.is_first:
            torch.save(value, buffer)
        length = torch.tensor([buffer.tell()], device=self.device)
        _wait_for(dist.broadcast, length, src=0)
        content = torch.empty(int(length), dtype=torch.uint8)
        if self.is_first:
            content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        content = content.to(self.device)
        _wait_for(dist.broadcast, content, src=0)
        if self.is_first:
            return value
        return torch.load(io.BytesIO(content.cpu().numpy().tobytes()), weights_only=True)

    def agree(self, fingerprint: str) -> None:
        """Compare what training depends on.

        Raises:
            TrainingError: a rank has other parameters, data, code or versions than rank 0.
        """
        if self.size == 1:
            return
        mine = torch.tensor([int(fingerprint, 16) - 2**63], device=self.device)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        _wait_for(dist.all_gather, every, mine)
        if others := [rank for rank, one in enumerate(every) if not torch.equal(one, every[0])]:
            raise TrainingError(
                f"{_ranks(others, self.size)} not what rank 0 has of params.yaml, "
                "artifacts/chips, src/ and torch: give all machines one folder, or one commit "
                "and `dvc repro preprocess`"
            )


def alone(params: Train) -> Group:
    """One process that trains by itself."""
    return Group(choose_device(params.device))


@dataclass(frozen=True)
class Place:
    """Where this process stands among those that were started together."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int


def find_place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Read the environment; None where no one has started several processes.

    Raises:
        TrainingError: it is incomplete, or contradicts itself.
    """
    given = dict(environment)
    if "RANK" not in given and "SLURM_STEP_ID" in given:  # a batch script is no step of srun
        given |= {name: given[slurm] for name, slurm in SLURM.items() if slurm in given}
    if "RANK" not in given and "WORLD_SIZE" not in given or given.get("WORLD_SIZE") == "1":
        return None
    if missing := [name for name in NEEDED if not given.get(name)]:
        raise TrainingError(
            f"WORLD_SIZE is {given.get('WORLD_SIZE', 'not set')}, but the environment has no "
            f"{' and no '.join(missing)}: start the processes by torchrun, or set all of "
            f"{', '.join(NEEDED)} (docs/training-on-many.md)"
        )
    rank, size, port = (_number(given, name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    local_rank = _number(given, "LOCAL_RANK") if "LOCAL_RANK" in given else 0
    if rank >= size:
        raise TrainingError(f"RANK is {rank}, but WORLD_SIZE is {size}: ranks are 0 to {size - 1}")
    return Place(rank, size, local_rank, given["MASTER_ADDR"], port)


def _number(given: Mapping[str, str], name: str) -> int:
    if not given[name].isdecimal():
        raise TrainingError(f"{name} is {given[name]!r} in the environment: write a whole number")
    return int(given[name])


@contextmanager
def join(params: Train) -> Iterator[Group]:
    """Join the ranks that were started, or be alone.

    Raises:
        ParameterError: the parameters do not fit the number of ranks.
        TrainingError: the ranks do not come together.
    """
    if dist.is_initialized():  # by Ray
        check(params, dist.get_world_size())
        device = _own_device(params, int(os.environ.get("LOCAL_RANK", "0")))
        yield Group(device, dist.get_rank(), dist.get_world_size())
        return
    try:
        place = find_place()
        check(params, place.size if place else 1)
        if place is None:
            yield alone(params)
            return
        end_with_the_agent()
        device = _own_device(params, place.local_rank)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=_meet(place),
            rank=place.rank,
            world_size=place.size,
            timeout=ANSWER,
        )
        try:
            yield Group(device, place.rank, place.size)
        finally:
            dist.destroy_process_group()
    except Exception as error:
        if (
            "TORCHELASTIC_ERROR_FILE" in os.environ
        ):  # torchrun says which rank failed first, of what
            ErrorHandler().record_exception(error)
        raise


def check(params: Train, size: int) -> None:
    """Check that the parameters fit a number of ranks.

    Raises:
        ParameterError: there are more or fewer ranks than wanted.
    """
    processes, nodes = params.processes, params.nodes
    wanted = size if processes == "auto" else processes * nodes
    if size != wanted or size % nodes:
        raise ParameterError(
            f"params.yaml: train.processes is {processes} and train.nodes is {nodes}, but "
            f"WORLD_SIZE says {size}: start as many processes as wanted, or change the parameters "
            "(processes: auto takes any number)"
        )


def _own_device(params: Train, local_rank: int) -> torch.device:
    """The GPU of this rank, or the CPU with this rank's share of its cores."""
    device = choose_device(params.device)
    if device.type == "cpu":
        if not os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(share_of_cores(torch.get_num_threads()))
        return device
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"LOCAL_RANK is {local_rank}, but torch sees {torch.cuda.device_count()} GPUs here: "
            "start one process for each GPU, or set train.device to cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def share_of_cores(cores: int, environment: Mapping[str, str] = os.environ) -> int:
    """Threads of a rank: threads that share a core wait for each other in every operation.

    torchrun says how many ranks the machine has, and Slurm how many cores the rank has; one thread
    where neither does.
    """
    if beside := environment.get("LOCAL_WORLD_SIZE"):
        return max(1, cores // int(beside))
    return int(environment.get("SLURM_CPUS_PER_TASK", "1"))


def _meet(place: Place) -> Store:
    """Wait until all ranks are there; return the store in which they find each other.

    Each restart has a part of the store of its own: torchrun's is the same for all of them, and
    new ranks would read the addresses of dead ones from it.

    Raises:
        TrainingError: one does not come within ARRIVAL.
    """
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun
    host = place.rank == 0 and not served
    minutes = ARRIVAL.total_seconds() / 60
    try:
        store = TCPStore(
            place.address, place.port, is_master=host, timeout=ARRIVAL, wait_for_workers=False
        )
    except RuntimeError as error:
        raise TrainingError(
            f"rank {place.rank} cannot {'listen' if host else 'reach rank 0'} at MASTER_ADDR "
            f"{place.address}, MASTER_PORT {place.port}, in {minutes:.2g} minutes: check that "
            f"rank 0 runs there, and the firewall ({_first_line(error)})"
        ) from None
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = PrefixStore(f"restart-{restart}", store)
    names = [f"rank-{rank}" for rank in range(place.size)]
    if own.add(names[place.rank], 1) > 1:
        raise TrainingError(
            f"two processes say that they are rank {place.rank}: give each its own RANK"
        )
    try:
        own.wait(names, ARRIVAL)
    except RuntimeError:
        missing = [rank for rank, name in enumerate(names) if not own.check([name])]
        raise TrainingError(
            f"{_ranks(missing, place.size)} not come in {minutes:.2g} minutes: read its log, "
            "and check that WORLD_SIZE is the number of processes that were started"
        ) from None
    return own


def _wait_for(together: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Do what all ranks do together.

    Raises:
        PeerLost: one of them is gone, or does not answer.
    """
    try:
        together(*arguments, **options)
    except RuntimeError as error:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            time.sleep(GRACE)  # torchrun ends this process, and names the one that died
        raise PeerLost(
            f"rank {dist.get_rank()} lost another one, or waited {ANSWER.total_seconds() / 60:g} "
            f"minutes for it: the log of the other ranks says why ({_first_line(error)})"
        ) from None


def end_with_the_agent() -> None:
    """Let the kernel end this process when torchrun is killed: no one else would."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _unpack(flat: Tensor, tensors: Any) -> None:
    """Copy a tensor that was put together from others back into them."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


def _ranks(ranks: list[int], size: int) -> str:
    """For example `ranks 1, 3 of 4 have`."""
    names = ", ".join(str(rank) for rank in ranks)
    return f"rank {names} of {size} has" if len(ranks) == 1 else f"ranks {names} of {size} have"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
