"""Stage: chips of the training split -> the model bundle.

Reads top-down: data, model, loop, export. A run that is killed goes on from its last checkpoint;
one seed gives one model on one machine's CPU.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from dvclive import Live
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import paths
from pipeline.bundle.export import export
from pipeline.data.prepared import Chips, read_chips
from pipeline.errors import TrainingError, command
from pipeline.params import Params, read_params
from pipeline.progress import EpochProgress
from pipeline.training.augment import augment, resize, size_in
from pipeline.training.batches import Feed
from pipeline.training.calibration import temperature
from pipeline.training.checkpoint import Checkpoints, State, code_digest, fingerprint
from pipeline.training.hardware import choose_device, choose_precision, describe
from pipeline.training.models import Classifier, build
from pipeline.training.optimizer import build_optimizers, one_cycle

EVALUATION_BATCH = 256
MEMORY_ERRORS = ("out of memory", "can't allocate memory", "not enough memory")


@command
def main() -> None:
    """Train on `artifacts/chips/` and write the bundle to `model/`."""
    params = read_params()
    chips = read_chips()
    try:
        result = train(params, chips)
    except RuntimeError as error:  # torch has no class of its own for the CPU's allocator
        if any(words in str(error).lower() for words in MEMORY_ERRORS):
            raise TrainingError(
                f"out of memory: lower train.batch_size (now {params.train.batch_size}) "
                f"or model.width (now {params.model.width})"
            ) from None
        raise
    manifest = export(result.model, params, chips, seconds=result.seconds, hardware=result.hardware)
    result.checkpoints.clear()
    print(f"train: {paths.MODEL}/ is {manifest.sha256[:12]}, best epoch {result.best_epoch}")


@dataclass
class Result:
    """What a training run leaves."""

    model: Classifier
    seconds: float
    hardware: str
    best_epoch: int
    history: list[dict[str, float]]
    checkpoints: Checkpoints


@dataclass
class Progress:
    """How far a run is; part of the checkpoint."""

    epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: tuple[float, float] = (-1.0, -math.inf)
    best_weights: dict[str, Any] = field(default_factory=dict)


def train(params: Params, chips: Chips) -> Result:
    """Run the training loop; return the best epoch's weights, calibrated on the validation split.

    Raises:
        TrainingError: no GPU where one is wanted, or the loss is not a number any more.
    """
    p = params.train
    device = choose_device(p.device)
    precision = choose_precision(p, device)
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.manual_seed(p.seed)

    data = Feed(chips.split("train"), device)
    held_out = Feed(chips.split("validation"), device)
    steps = math.ceil(len(data) / p.batch_size)

    network = build(params.model, len(chips.dataset.bands), len(chips.dataset.classes))
    model = Classifier(network, chips.mean, chips.std)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward: Callable[[Tensor], Tensor] = torch.compile(model, disable=not p.compile)
    optimizers = build_optimizers(model, p)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    checkpoints = Checkpoints(_fingerprint(params, chips))
    progress = Progress()
    if state := checkpoints.load():
        progress = _restore(state, model, optimizers)
        print(f"train: going on after epoch {progress.epoch} of {p.epochs}")

    with (
        Live(str(paths.TRAINING), dvcyaml=None, save_dvc_exp=False) as live,
        EpochProgress(p.epochs, steps, done=progress.epoch) as bar,
    ):
        live.log_params({"model": params.model.model_dump(), "train": p.model_dump()})
        for record in progress.history:
            _log(live, record)
        while progress.epoch < p.epochs and not _is_over(progress, p.patience):
            started = time.perf_counter()
            # Each epoch draws from its own seed, so that a resumed run sees what it would have.
            torch.manual_seed(p.seed * 100_003 + progress.epoch)
            total_loss = torch.zeros((), device=device)
            correct = torch.zeros((), device=device)
            model.train()
            full = chips.dataset.size
            size = size_in(progress.epoch + 1, p.epochs, full) if p.progressive else full
            order = torch.randperm(len(data))
            for step, rows in enumerate(torch.tensor_split(order, steps)):
                rate = one_cycle((progress.epoch * steps + step + 1) / (p.epochs * steps))
                for optimizer, peak in zip(optimizers, peaks, strict=True):
                    for group, highest in zip(optimizer.param_groups, peak, strict=True):
                        group["lr"] = rate * highest

                inputs, labels = data.batch(rows)
                inputs = resize(augment(inputs, p.max_shift, p.brightness), size)
                with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                    logits = forward(inputs)
                loss = F.cross_entropy(logits.float(), labels, label_smoothing=p.label_smoothing)
                model.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), p.gradient_clip or math.inf)
                for optimizer in optimizers:
                    optimizer.step()

                total_loss += loss.detach() * len(rows)
                correct += (logits.argmax(dim=1) == labels).sum()
                bar.step(len(rows), total_loss, correct)

            loss_value = total_loss.item() / len(data)
            if not math.isfinite(loss_value):
                raise TrainingError(
                    f"the loss is {loss_value} in epoch {progress.epoch + 1}: lower "
                    f"train.learning_rate (now {p.learning_rate:g}), or set train.gradient_clip"
                )
            seen = time.perf_counter() - started
            loss_held_out, accuracy_held_out = _validate(model, held_out, device, precision)
            record = {
                "train_loss": loss_value,
                "train_accuracy": correct.item() / len(data),
                "validation_loss": loss_held_out,
                "validation_accuracy": accuracy_held_out,
                "images_per_second": len(data) / seen,
            }
            _log(live, record)
            bar.epoch(record)

            progress.epoch += 1
            progress.history.append(record)
            progress.seconds += time.perf_counter() - started
            # Only epochs at full size count: before, the scale is not the one it will meet.
            if size == full and (accuracy_held_out, -loss_held_out) >= progress.best_score:
                progress.best_score = (accuracy_held_out, -loss_held_out)
                progress.best_epoch = progress.epoch
                progress.best_weights = copy.deepcopy(model.state_dict())
            checkpoints.save(progress.epoch, _state(progress, model, optimizers))

    model.load_state_dict(progress.best_weights)
    logits, labels = _predict(model, held_out, device, precision)
    model.temperature.fill_(temperature(logits.cpu().numpy(), labels.cpu().numpy()))
    hardware = describe(device, precision)
    return Result(
        model, progress.seconds, hardware, progress.best_epoch, progress.history, checkpoints
    )


def _is_over(progress: Progress, patience: int) -> bool:
    """Early stop: `patience` epochs have passed since the best one."""
    return 0 < patience <= progress.epoch - progress.best_epoch and progress.best_epoch > 0


def _validate(
    model: nn.Module, data: Feed, device: torch.device, precision: torch.dtype
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over a split."""
    logits, labels = _predict(model, data, device, precision)
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return F.cross_entropy(logits, labels).item(), accuracy.item()


@torch.no_grad()
def _predict(
    model: nn.Module, data: Feed, device: torch.device, precision: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) and labels (N,) of a split."""
    model.eval()
    parts = []
    for rows in torch.split(torch.arange(len(data)), EVALUATION_BATCH):
        inputs, labels = data.batch(rows)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = model(inputs)
        parts.append((logits.float(), labels))
    columns = list(zip(*parts, strict=True))
    return torch.cat(columns[0]), torch.cat(columns[1])


def _log(live: Live, record: dict[str, float]) -> None:
    for name, value in record.items():
        part, _, rest = name.partition("_")
        live.log_metric(f"{part}/{rest}" if part in ("train", "validation") else name, value)
    live.next_step()


def _fingerprint(params: Params, chips: Chips) -> str:
    return fingerprint(
        model=params.model.model_dump(),
        train=params.train.model_dump(),
        data=chips.digest,
        code=code_digest(),
        torch=torch.__version__,
    )


def _state(
    progress: Progress,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
) -> State:
    return {
        "progress": asdict(progress),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }


def _restore(
    state: State,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
) -> Progress:
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])


if __name__ == "__main__":
    main()
