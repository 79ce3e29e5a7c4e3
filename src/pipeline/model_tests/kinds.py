"""What each kind of test does with the subject: points, and whether they keep the thresholds."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.bundle import NODATA, Objects
from contracts.model_tests import ModelTestPoint as Point
from pipeline import paths
from pipeline.bundle.inference import session
from pipeline.errors import PipelineError
from pipeline.model_tests import definition, disturb
from pipeline.model_tests.disturb import Move, Rule
from pipeline.model_tests.slices import NotApplicable, masks
from pipeline.model_tests.subject import Subject
from pipeline.tasks.intervals import interval
from pipeline.tasks.task import Output

WARM_UP = 20  # single-chip predictions before timing starts
FLIPS = {0: "a flip", 2: "a flip upside down"}
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1))  # down, right
PEAK = Path(__file__).with_name("peak.py")


class Outcome(NamedTuple):
    """What a test found."""

    holds: bool
    text: str
    measure: str
    points: tuple[Point, ...]


def run(name: str, test: definition.AnyCase, subject: Subject) -> Outcome:
    """Run a test.

    Raises:
        NotApplicable: the task or the data have nothing of the kind.
        ParameterError: `only` names a slice that is not there.
    """
    if isinstance(test, definition.Slice | definition.Season):
        return _slices(name, test, subject)
    if isinstance(test, definition.Invariance):
        return _invariance(test, subject)
    if isinstance(test, definition.Latency):
        return _latency(test, subject)
    if isinstance(test, definition.Memory):
        return _memory(test)
    return _disturbances(test, subject)


# Quality


def _slices(name: str, test: definition.Slice | definition.Season, subject: Subject) -> Outcome:
    """Each slice against the rest of the test split, which is tested alike."""
    found = masks(name, test, subject.split, subject.dataset)
    points, judged, measure = [], [], ""
    for at, mask in found.items():
        units = subject.predictions(*subject.part(mask))
        value, measure = subject.quality(units)
        chips = int(mask.sum())
        if chips < test.min_chips or mask.all():
            points.append(Point(at=at, value=value, chips=chips, judged=False))
            continue
        rest = subject.predictions(*subject.part(~mask))
        drop = subject.quality(rest)[0] - value
        either = float(np.hypot(subject.spread(units), subject.spread(rest)))
        points.append(Point(at=at, value=value, low=drop - either, high=drop + either, chips=chips))
        judged.append((points[-1], units))
    if not judged:
        raise NotApplicable(
            f"no {test.by} has {test.min_chips} test chips, and a rest to compare it with"
        )
    return _judge(test, subject, measure, points, judged, "the rest")


def _disturbances(
    test: definition.Brightness | definition.Noise | definition.Shift, subject: Subject
) -> Outcome:
    """Each strength against the clean answers of the same chips."""
    points, judged, measure = [], [], ""
    for at, rule, move in _strengths(test, subject):
        point, measure, units = subject.drop(at, rule, move)
        points.append(point)
        judged.append((point, units))
    return _judge(test, subject, measure, points, judged, "clean")


def _strengths(
    test: definition.Brightness | definition.Noise | definition.Shift, subject: Subject
) -> Iterator[tuple[str, Rule, Move]]:
    dataset, stay = subject.dataset, Move()
    if isinstance(test, definition.Brightness):
        for factor in test.gains:
            yield f"x {factor:g}", disturb.gain(dataset, factor), stay
    elif isinstance(test, definition.Noise):
        for sigma in test.sigmas:
            yield f"{sigma:g} {dataset.units}", disturb.noise(dataset, sigma), stay
    else:
        for pixels in test.pixels:
            if 2 * pixels >= dataset.size:
                raise NotApplicable(f"chips of {dataset.size} pixels cannot lie {pixels} aside")
            for down, right in SIDES:
                move = Move(down=down * pixels, right=right * pixels)
                yield f"{move.down:+d}, {move.right:+d} px", move.rule(dataset), move


def _judge(
    test: definition.OfQuality,
    subject: Subject,
    measure: str,
    points: Sequence[Point],
    judged: Sequence[tuple[Point, Mapping[str, Any]]],
    against: str,
) -> Outcome:
    """Fail where the whole interval is beyond a threshold; say the point that is worst."""
    texts, holds = [], True
    if test.max_drop is not None:
        worst = max((point for point, _ in judged), key=lambda point: point.low or 0.0)
        holds = (worst.low or 0.0) <= test.max_drop
        if holds:  # then the point with the least quality says more than the surest drop
            worst = min((point for point, _ in judged), key=lambda point: point.value)
        texts.append(
            f"{measure} {worst.value:.4f} at {worst.at}, {-(worst.high or 0):+.3f} to "
            f"{-(worst.low or 0):+.3f} (95 %) against {against}, wanted {-test.max_drop:g} at worst"
        )
    if test.min_quality is not None:
        point, units = min(judged, key=lambda pair: pair[0].value)
        half = subject.spread(units)
        holds = holds and point.value + half >= test.min_quality
        texts.append(
            f"{measure} {point.value:.4f} +- {half:.4f} (95 %) at {point.at}, wanted at least "
            f"{test.min_quality:g}"
        )
    return Outcome(holds, "; ".join(texts), measure, tuple(points))


# Invariance


def _invariance(test: definition.Invariance, subject: Subject) -> Outcome:
    """Share of the answer of a chip that changes, in the mean of the chips; no label is needed."""
    clean, _ = subject.part(subject.chosen)
    points = []
    for at, rule, move in _changes(test, subject):
        output = move.back(subject.disturbed(rule), subject.dataset)
        changed = _changed(clean, output, subject)
        low, high = interval(changed, subject.params.bootstrap_samples)
        points.append(
            Point(at=at, value=float(changed.mean()), low=low, high=high, chips=len(changed))
        )
    worst = max(points, key=lambda point: point.low or 0.0)
    assert test.max_changed is not None
    text = (
        f"{worst.value:.2%} of the answers change under {worst.at} (95 % interval {worst.low:.2%} "
        f"to {worst.high:.2%}), wanted at most {test.max_changed:.2%}"
    )
    return Outcome((worst.low or 0.0) <= test.max_changed, text, "share changed", tuple(points))


def _changes(test: definition.Invariance, subject: Subject) -> Iterator[tuple[str, Rule, Move]]:
    dataset = subject.dataset
    for kind in test.under:
        if kind == "band-noise":
            for band, name in enumerate(dataset.bands):
                assert test.sigma is not None
                yield f"noise in {name}", disturb.noise(dataset, test.sigma, band), Move()
            continue
        turns = (1, 2, 3) if kind == "turn" else (0, 2)
        for quarters in turns:
            move = Move(is_flipped=kind == "flip", quarters=quarters)
            name = f"a turn by {90 * quarters} degrees" if kind == "turn" else FLIPS[quarters]
            yield name, move.rule(dataset), move


def _changed(one: Output, other: Output, subject: Subject) -> npt.NDArray[np.float64]:
    """Share of each chip's answer that differs, (N,): its class, its pixels, or its boxes."""
    if subject.dataset.labels == "folders":
        signal = subject.task.predicted_classes
        return np.array(signal(one) != signal(other), np.float64)
    if subject.dataset.labels == "maps":
        known = (one["labels"] != NODATA) & (other["labels"] != NODATA)
        differs = ((one["labels"] != other["labels"]) & known).sum(axis=(1, 2))
        share: npt.NDArray[np.float64] = differs / np.maximum(known.sum(axis=(1, 2)), 1)
        return share
    assert isinstance(subject.manifest, Objects)
    pairs = zip(_sure(one, subject.manifest), _sure(other, subject.manifest), strict=True)
    return np.array([_unmatched(*pair) for pair in pairs])


def _sure(output: Output, manifest: Objects) -> Iterator[list[npt.NDArray[Any]]]:
    """Of each chip the boxes that the threshold lets through, class by class."""
    for boxes, scores, labels in zip(
        output["boxes"], output["scores"], output["labels"], strict=True
    ):
        sure = scores >= manifest.threshold
        yield [boxes[sure & (labels == index)] for index in range(len(manifest.classes))]


def _unmatched(one: list[npt.NDArray[Any]], other: list[npt.NDArray[Any]]) -> float:
    """Share of the boxes of two answers that have no counterpart in the other."""
    from pipeline.tasks import matching  # of a room that may be deleted

    total = sum(map(len, (*one, *other)))
    pairs = zip(one, other, strict=True)
    both = sum(int((matching.match(mine, theirs) >= 0).sum()) for mine, theirs in pairs)
    return 1 - 2 * both / total if total else 0.0


# Time and memory


def _latency(test: definition.Latency, subject: Subject) -> Outcome:
    """Median CPU time of single chips; in turns with it, a convolution as the machine's unit.

    One thread runs both, and its clock stands still while others have the core.
    """
    model, unit = session(subject.graph, 1), session(_unit(), 1)
    pixels = np.random.default_rng(0).random((1, 32, 64, 64), np.float32)
    ours, theirs = [], []
    for number in range(WARM_UP + test.runs):
        chip = np.ascontiguousarray(subject.split.chips[number % len(subject.split.rows)][None])
        ours.append(_milliseconds(lambda: model.run(None, {"chips": chip})))
        theirs.append(_milliseconds(lambda: unit.run(None, {"x": pixels})))
    of_model, of_unit = (float(np.median(times[WARM_UP:])) for times in (ours, theirs))
    texts, holds = [], True
    for value, limit, said in (
        (of_model / of_unit, test.max_ratio, "convolutions"),
        (of_model, test.max_cpu, "ms of CPU"),
    ):
        if limit is not None:
            holds = holds and value <= limit
            texts.append(f"{value:.3g} {said} a chip, wanted at most {limit:g}")
    points = (Point(at="a chip", value=of_model), Point(at="a convolution", value=of_unit))
    return Outcome(holds, "; ".join(texts), "ms of CPU", points)


def _unit() -> bytes:
    """A convolution of 32 channels, 3 x 3, over 64 x 64 pixels: 38 million multiply-adds."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((32, 32, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "unit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 64, 64])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.thread_time()
    call()
    return 1000 * (time.thread_time() - started)


def _memory(test: definition.Memory) -> Outcome:
    """Peak of a process of its own: ours has held the test split."""
    line = [sys.executable, str(PEAK), str(paths.MODEL), str(paths.CHIPS), str(test.batch)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise PipelineError(f"the process that was measured has failed: {said}")
    found = json.loads(done.stdout)
    assert test.max_peak is not None
    own = found["peak"] - found["bare"]
    text = (
        f"peak {found['peak']:.0f} MiB, {own:.0f} of them the model and a batch of {test.batch}, "
        f"wanted at most {test.max_peak:g} MiB"
    )
    points = [Point(at=name, value=found[name]) for name in ("bare", "peak")]
    return Outcome(found["peak"] <= test.max_peak, text, "MiB", tuple(points))
