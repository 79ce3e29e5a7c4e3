"""Progress of long work: a bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self, TypeVar

import rich.progress
from rich.console import Console

T = TypeVar("T")


class Scalar(Protocol):
    """A number that may still be under way on a GPU, such as a tensor without dimensions."""

    def item(self) -> float:
        """Wait for it."""


CONSOLE = Console(stderr=True)
REFRESH = 0.5  # seconds; reading the loss makes a GPU wait


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Pass `items` on, showing how many of `total` are done and the time left."""
    if not CONSOLE.is_terminal:
        yield from items
        return
    yield from rich.progress.track(items, description, total, console=CONSOLE)


class EpochProgress:
    """Training as it goes: a bar with loss, accuracy, rate and time left, and a line an epoch."""

    def __init__(self, epochs: int, steps: int, done: int = 0, shown: bool = True) -> None:
        self._epochs, self._epoch = epochs, done
        self._images, self._started, self._shown = 0, time.perf_counter(), 0.0
        self._bar = rich.progress.Progress(
            "epoch {task.fields[epoch]}",
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            "{task.fields[now]}",
            rich.progress.TimeRemainingColumn(),
            console=CONSOLE,
            disable=not (shown and CONSOLE.is_terminal),
        )
        self._task = self._bar.add_task(
            "train", total=epochs * steps, completed=done * steps, epoch=self._label(), now=""
        )

    def step(self, images: int, total_loss: Scalar, correct: Scalar) -> None:
        """Count a step; the tensors are sums over the images of the epoch so far."""
        self._images += images
        self._bar.advance(self._task)
        now = time.perf_counter()
        if self._bar.disable or now - self._shown < REFRESH:
            return
        self._shown = now
        rate = self._images / (now - self._started)
        loss, accuracy = total_loss.item() / self._images, correct.item() / self._images
        text = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {rate:,.0f} images/s"
        self._bar.update(self._task, now=text, epoch=self._label())

    def epoch(self, record: dict[str, float]) -> None:
        """Print what an epoch gave."""
        line = (
            f"epoch {self._label()}  loss {record['train_loss']:.3f}  "
            f"validation loss {record['validation_loss']:.3f}  "
            f"accuracy {record['validation_accuracy']:.2%}  "
            f"{record['images_per_second']:,.0f} images/s"
        )
        self._epoch += 1
        self._images, self._started = 0, time.perf_counter()
        CONSOLE.print(line, highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def _label(self) -> str:
        return f"{self._epoch + 1}/{self._epochs}"
