"""Stage: chips of the training split -> the model bundle.

Reads:
    artifacts/chips/      what preprocess wrote
    params.yaml           the sections model and train

Writes:
    model/                the bundle: model.onnx and model.json
    reports/training/     loss, accuracy and speed of every epoch, by DVCLive

A run that is killed goes on from its last checkpoint, with as many threads as before. With several
processes (`train.processes`) this file runs in each of them; the first one measures and writes.

One seed gives one model, bit for bit, on one kind of CPU with one number of threads and processes;
another number adds floats in another order. The number of threads is all cores, or one where other
programs keep the cores busy, and stands in model.json with the CPU. `OMP_NUM_THREADS` fixes it. On
a GPU two runs of one seed differ in the last digits, as some of its kernels add in no fixed order.
"""

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from dvclive import Live
from torch import Tensor, nn

from pipeline import paths, repository, tasks
from pipeline.arguments import parse_none
from pipeline.bundle.export import export
from pipeline.data.dataset import at_a_time
from pipeline.data.prepared import Prepared, read_prepared
from pipeline.errors import DataError, TrainingError, command
from pipeline.params import Params, Train, read_params
from pipeline.progress import EpochProgress
from pipeline.tasks.task import Task
from pipeline.training.augment import augment, noisy, resize, resize_labels, size_in, zoomed
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Checkpoints, State, code_digest, fingerprint
from pipeline.training.hardware import choose_precision, choose_threads, describe, keep_threads
from pipeline.training.launch import is_launcher, launch
from pipeline.training.models import Predictor, build
from pipeline.training.optimizer import build_optimizers, one_cycle
from pipeline.training.processes import Group, alone, join

EVALUATION_BATCH = 256  # chips of at most 128 px
MEMORY_ERRORS = ("out of memory", "can't allocate memory", "not enough memory")


@command
def main(arguments: Sequence[str] = ()) -> None:
    """Train on `artifacts/chips/` and write the bundle to `model/`."""
    parse_none("train", __doc__, arguments)
    params = read_params()
    if is_launcher(params.train):
        return launch(params.train, "pipeline.train")
    with join(params.train) as group:
        run_stage(params, group)


def run_stage(params: Params, group: Group) -> None:
    """Train as one of a group; its first process writes the bundle.

    Raises:
        TrainingError: the memory does not suffice; and as `train`.
    """
    prepared = read_prepared()
    revision = repository.revision()  # of the code that runs now, whatever is edited meanwhile
    try:
        result = train(params, prepared, group)
    except RuntimeError as error:  # torch has no class of its own for the CPU's allocator
        if any(words in str(error).lower() for words in MEMORY_ERRORS):
            raise TrainingError(
                f"out of memory: lower train.batch_size (now {params.train.batch_size}) "
                f"or model.width (now {params.model.width})"
            ) from None
        raise
    if not group.is_first:
        return
    manifest = export(
        result.model,
        params,
        prepared,
        revision=revision,
        seconds=result.seconds,
        hardware=result.hardware,
    )
    result.checkpoints.clear()
    print(f"train: {paths.MODEL}/ is {manifest.sha256[:12]}, best epoch {result.best_epoch}")


@dataclass
class Result:
    """What a training run leaves."""

    model: Predictor
    seconds: float
    hardware: str
    best_epoch: int
    history: list[dict[str, float]]
    checkpoints: Checkpoints


class Data(NamedTuple):
    """The splits that training reads, on its device. Several trainings can share them."""

    train: Batches
    held_out: Batches
    """The validation split."""
    labels: npt.NDArray[np.generic]
    """Of the training split."""


@dataclass
class Run:
    """What the training loop works with; it changes the model and the optimizers in place."""

    params: Train
    task: Task
    group: Group
    """The processes that train together."""
    device: torch.device
    precision: torch.dtype
    data: Batches
    held_out: Batches
    size: int
    """Height and width of a chip, pixels."""
    stride: int
    """Sizes of chips are multiples of it."""
    weights: Tensor | None
    """Of the classes in the loss."""
    model: Predictor
    optimizers: list[torch.optim.Optimizer]
    peaks: list[list[float]]
    """Highest learning rate of each parameter group of each optimizer."""

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.data) / self.params.batch_size)

    def autocast(self) -> torch.autocast:
        """Compute in the precision of this run."""
        return torch.autocast(
            self.device.type, self.precision, enabled=self.precision != torch.float32
        )


@dataclass
class Progress:
    """How far a run is; part of the checkpoint."""

    threads: int
    epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: tuple[float, float] = (-1.0, -math.inf)
    best_weights: dict[str, Any] = field(default_factory=dict)


def train(params: Params, prepared: Prepared, group: Group | None = None) -> Result:
    """Set up, run the training loop, and calibrate the best epoch's weights.

    Args:
        group: the processes that train together; alone without.

    Raises:
        TrainingError: `train.device` is cuda and torch sees no GPU, the loss is NaN or infinite, or
            another process of the group is gone.
    """
    group = group or alone(params.train)
    run = setup(params, prepared, open_data(params, prepared, group.device), group)
    name = identify(params, prepared, group.size)
    group.agree(name)
    checkpoints = Checkpoints(name)
    progress = begin(run, checkpoints)
    fit(run, progress, checkpoints, {"model": params.model.model_dump()})

    run.model.load_state_dict(progress.best_weights)
    if group.is_first:
        logits, targets = _predict(run)
        temperature = run.task.temperature(logits.cpu().numpy(), targets.cpu().numpy())
        run.model.temperature.fill_(temperature)
    hardware = describe(run.device, run.precision, group.size)
    return Result(
        run.model, progress.seconds, hardware, progress.best_epoch, progress.history, checkpoints
    )


def open_data(params: Params, prepared: Prepared, device: torch.device | None = None) -> Data:
    """Open the splits, on the GPU where they fit.

    Args:
        device: the one of `train.device` without.

    Raises:
        TrainingError: `train.device` is cuda and torch sees no GPU.
    """
    device = device or alone(params.train).device
    split = prepared.split("train")
    held_out = Batches(prepared.split("validation"), device)
    return Data(Batches(split, device), held_out, split.labels)


def setup(params: Params, prepared: Prepared, data: Data, group: Group | None = None) -> Run:
    """Seed torch, and build network and optimizers.

    Args:
        group: the processes that train together; alone without.

    Raises:
        DataError: the data are labelled in another way than the task needs, their chips have a
            size that the network does not take, or they are too few for so many processes.
    """
    p, task = params.train, tasks.find(params.model.task)
    if (labels := prepared.dataset.labels) != task.LABELS:
        able = [name for name, other in tasks.TASKS.items() if other.LABELS == labels]
        raise DataError(
            f"params.yaml: model.task is {params.model.task}, which needs labels of the kind "
            f"{task.LABELS}; {paths.DATA}/ has {labels}: use one of {', '.join(able)}, or ingest "
            "other data"
        )
    group = group or alone(p)
    device = group.device
    _check_parts(len(data.train), p, group.size)
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.manual_seed(p.seed)
    classes = len(prepared.dataset.classes)
    network = build(params.model, len(prepared.dataset.bands), classes)
    model = Predictor(network, prepared.mean, prepared.std)
    stride = int(getattr(network, "stride", 1))
    if prepared.dataset.size % stride:
        raise DataError(
            f"chips of {prepared.dataset.size} pixels: model.network {params.model.network} needs "
            f"a multiple of {stride}, ingest with another size"
        )
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = build_optimizers(model, p)
    weights = task.class_weights(data.labels, classes, p.class_weights)
    return Run(
        params=p,
        task=task,
        group=group,
        device=device,
        precision=choose_precision(p, device),
        data=data.train,
        held_out=data.held_out,
        size=prepared.dataset.size,
        stride=stride,
        weights=None if weights is None else weights.to(device),
        model=model,
        optimizers=optimizers,
        peaks=[[weights["lr"] for weights in one.param_groups] for one in optimizers],
    )


def _check_parts(chips: int, params: Train, processes: int) -> None:
    """See that each part of a batch has two chips: batch norm needs a mean."""
    parts = processes * params.accumulate
    smallest = chips // math.ceil(chips / params.batch_size) // parts
    if parts > 1 and smallest < 2:
        raise DataError(
            f"{chips} training chips in batches of {params.batch_size} leave {smallest} for some "
            f"of the {processes} processes x train.accumulate {params.accumulate}, and 2 are "
            "needed: lower these, or raise train.batch_size"
        )


def begin(run: Run, checkpoints: Checkpoints) -> Progress:
    """Restore the newest checkpoint into the run, or begin a new one."""
    if not (state := run.group.share(checkpoints.load() if run.group.is_first else None)):
        return Progress(threads=_choose_threads(run))
    progress = _restore(state, run)
    if run.group.is_first:
        print(f"train: going on after epoch {progress.epoch} of {run.params.epochs}")
    return progress


def fit(run: Run, progress: Progress, checkpoints: Checkpoints, facts: dict[str, Any]) -> None:
    """Train to the end, and show it: a bar, and DVCLive's curves.

    Args:
        progress: where to begin; holds the history and the best weights in the end.
        facts: parameters for DVCLive besides those of `train`.
    """
    p = run.params
    with (
        _open_log(run, progress, facts) as live,
        EpochProgress(p.epochs, run.steps, progress.epoch, shown=run.group.is_first) as bar,
    ):
        for record in epochs(run, progress, checkpoints, bar):
            if live:
                _log(live, record)
                bar.epoch(record)


def epochs(
    run: Run, progress: Progress, checkpoints: Checkpoints, bar: EpochProgress
) -> Iterator[dict[str, float]]:
    """Train until the last epoch, or until validation has not improved for `train.patience` epochs.

    Yields the figures of each epoch; whoever takes no further one ends the training there.
    """
    p, model, data, group = run.params, run.model, run.data, run.group
    forward: Callable[[Tensor], Tensor] = torch.compile(model, disable=not p.compile)
    while progress.epoch < p.epochs and not _is_over(progress, p.patience):
        started = time.perf_counter()
        # Each epoch draws from its own seed, so that a resumed run sees what it would have.
        epoch_seed = p.seed * 100_003 + progress.epoch
        torch.manual_seed(epoch_seed)
        total_loss = torch.zeros((), device=run.device)
        total_score = torch.zeros((), device=run.device)
        model.train()
        size = run.size
        if p.progressive:
            size = size_in(progress.epoch + 1, p.epochs, run.size, run.stride)
        order = torch.randperm(len(data))
        alike = group.draw(epoch_seed)  # from here on each process draws for its own chips
        for step, rows in enumerate(torch.tensor_split(order, run.steps)):
            _set_rate(run, (progress.epoch * run.steps + step + 1) / (p.epochs * run.steps))
            inputs, targets = data.batch(group.shard(rows))
            inputs, targets = augment(
                inputs, targets, p.max_shift, p.brightness, p.colour, p.mirror
            )
            edge = zoomed(size, p.zoom, run.stride, alike)
            inputs = resize(inputs, edge)
            targets = resize_labels(targets, edge, run.size)
            if p.noise:
                inputs = noisy(inputs, model.std, p.noise)
            model.zero_grad(set_to_none=True)
            for part, wanted in _parts(inputs, targets, p.accumulate):
                with run.autocast():
                    logits = forward(part)
                loss = run.task.loss(logits.float(), wanted, p.label_smoothing, run.weights)
                (loss * (len(part) / len(rows))).backward()
                total_loss += loss.detach() * len(part)
                total_score += run.task.score(logits, wanted).sum()
            group.add_gradients(model)
            nn.utils.clip_grad_norm_(model.parameters(), p.gradient_clip or math.inf)
            for optimizer in run.optimizers:
                optimizer.step()
            bar.step(len(rows), total_loss, total_score)

        group.level(model)
        group.add(total_loss, total_score)
        loss_value = total_loss.item() / len(data)
        if not math.isfinite(loss_value):
            raise TrainingError(
                f"the loss is {loss_value} in epoch {progress.epoch + 1}: lower "
                f"train.learning_rate (now {p.learning_rate:g}), or set train.gradient_clip"
            )
        seen = time.perf_counter() - started
        held_out = _validate(run) if group.is_first else None
        loss_held_out, accuracy_held_out, quality = group.share(held_out)
        record = {
            "train_loss": loss_value,
            "train_accuracy": total_score.item() / len(data),
            "validation_loss": loss_held_out,
            "validation_accuracy": accuracy_held_out,
            f"validation_{run.task.QUALITY}": quality,
            "images_per_second": len(data) / seen,
        }
        progress.epoch += 1
        progress.history.append(record)
        progress.seconds += time.perf_counter() - started
        # Only epochs at full size count: the model will meet chips at that scale alone.
        if size == run.size and (quality, -loss_held_out) >= progress.best_score:
            progress.best_score = (quality, -loss_held_out)
            progress.best_epoch = progress.epoch
            progress.best_weights = copy.deepcopy(model.state_dict())
        if group.is_first:
            checkpoints.save(progress.epoch, _state(progress, run))
        yield record


def _set_rate(run: Run, done: float) -> None:
    """Set the learning rates at this share of the training."""
    rate = one_cycle(done)
    for optimizer, peak in zip(run.optimizers, run.peaks, strict=True):
        for weights, highest in zip(optimizer.param_groups, peak, strict=True):
            weights["lr"] = rate * highest


def _parts(inputs: Tensor, targets: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of a batch whose gradients add up to its own; one at a time needs less memory."""
    return zip(torch.tensor_split(inputs, count), torch.tensor_split(targets, count), strict=True)


def _is_over(progress: Progress, patience: int) -> bool:
    """Early stop: `patience` epochs have passed since the best one."""
    return 0 < patience <= progress.epoch - progress.best_epoch and progress.best_epoch > 0


def _choose_threads(run: Run) -> int:
    """Time steps on copies of the model, so that nothing of this run changes; see `hardware`."""
    if run.device.type != "cpu":
        return torch.get_num_threads()
    model = copy.deepcopy(run.model).train()
    optimizers = build_optimizers(model, run.params)
    rows = torch.arange(min(run.params.batch_size, len(run.data)))

    def step() -> None:
        inputs, targets = run.data.batch(rows)
        inputs, targets = augment(inputs, targets, run.params.max_shift, run.params.brightness)
        with run.autocast():
            logits = model(inputs)
        run.task.loss(logits.float(), targets).backward()
        for optimizer in optimizers:
            optimizer.step()

    with torch.random.fork_rng(devices=[]):
        return choose_threads(step)


def _validate(run: Run) -> tuple[float, float, float]:
    """Mean loss, accuracy, and what chooses the epoch, over the validation split."""
    logits, targets = _predict(run)
    accuracy = run.task.score(logits, targets).mean().item()
    return run.task.loss(logits, targets).item(), accuracy, run.task.quality(logits, targets)


@torch.no_grad()
def _predict(run: Run) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) and targets (n,) of what the task looks at in the validation split."""
    run.model.eval()
    parts = []
    step = at_a_time(EVALUATION_BATCH, run.size)
    for rows in torch.split(torch.arange(len(run.held_out)), step):
        inputs, targets = run.held_out.batch(rows)
        with run.autocast():
            logits = run.model(inputs)
        parts.append(run.task.samples(logits.float(), targets, len(run.held_out)))
    columns = list(zip(*parts, strict=True))
    return torch.cat(columns[0]), torch.cat(columns[1])


@contextmanager
def _open_log(run: Run, progress: Progress, facts: dict[str, Any]) -> Iterator[Live | None]:
    """DVCLive of the first process, with what a run that goes on has logged before."""
    if not run.group.is_first:
        yield None
        return
    with Live(str(paths.TRAINING), dvcyaml=None, save_dvc_exp=False) as live:
        live.log_params(facts | {"train": run.params.model_dump()})
        for record in progress.history:
            _log(live, record)
        yield live


def _log(live: Live, record: dict[str, float]) -> None:
    for name, value in record.items():
        part, _, rest = name.partition("_")
        live.log_metric(f"{part}/{rest}" if part in ("train", "validation") else name, value)
    live.next_step()


def identify(params: Params, prepared: Prepared, processes: int = 1) -> str:
    """Name what a training depends on: parameters, data, code, version of torch, processes."""
    return fingerprint(
        processes=processes,
        model=params.model.model_dump(),
        train=params.train.model_dump(),
        data=prepared.digest,
        code=code_digest(),
        torch=torch.__version__,
    )


def _state(progress: Progress, run: Run) -> State:
    return {
        "progress": asdict(progress),
        "model": run.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
    }


def _restore(state: State, run: Run) -> Progress:
    run.model.load_state_dict(state["model"])
    for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    progress = Progress(**state["progress"])
    if run.device.type == "cpu":
        keep_threads(progress.threads)
    return progress


if __name__ == "__main__":
    main(sys.argv[1:])
