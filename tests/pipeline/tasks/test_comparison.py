"""Champion and challenger on the same chips: a difference counts only beyond the uncertainty."""

import random

import pytest

from pipeline.errors import DataError
from pipeline.evaluate import _write_csv
from pipeline.tasks.comparison import Comparison
from pipeline.tasks.comparison import compare_chips
from pipeline.tasks.classification import credit
from pipeline.tasks.task import Table
from pipeline.tasks.predictions import COLUMNS, Prediction, parse_table, rows


def compare(
    champion: dict[str, Prediction], challenger: dict[str, Prediction], samples: int
) -> Comparison | None:
    return compare_chips(champion, challenger, samples, credit)


def predictions(count: int, wrong: set[int], start: int = 0) -> dict[str, Prediction]:
    return {
        f"{index:016x}": Prediction(f"{index:016x}", "a", "b" if index in wrong else "a", 0.9)
        for index in range(start, start + count)
    }


def test_a_clear_loss_is_a_loss() -> None:
    found = compare(predictions(500, set()), predictions(500, set(range(40))), 1000)
    assert found is not None and found.is_loss
    assert found.champion == 1 and found.challenger == pytest.approx(0.92)
    assert (found.fixed, found.broken) == (0, 40)


def test_a_difference_within_the_uncertainty_is_none() -> None:
    found = compare(predictions(100, {1}), predictions(100, {2, 3}), 1000)
    assert found is not None and not found.is_loss
    assert found.difference.low < 0 < found.difference.high


def test_equal_models_do_not_differ() -> None:
    found = compare(predictions(100, {1}), predictions(100, {1}), 1000)
    assert found is not None and not found.is_loss
    assert found.difference == (0, 0)


def test_a_gain_is_no_loss() -> None:
    found = compare(predictions(500, set(range(60))), predictions(500, set()), 1000)
    assert found is not None and found.difference.low > 0 and found.fixed == 60


def test_only_chips_that_both_were_tested_on_count() -> None:
    found = compare(predictions(100, set(range(50))), predictions(100, set(), start=50), 1000)
    assert found is not None and found.chips == 50
    assert found.champion == 1  # its mistakes lie on chips that the challenger may have seen


def test_models_without_a_common_chip_can_not_be_compared() -> None:
    assert compare(predictions(10, set()), predictions(10, set(), start=10), 100) is None


def test_a_corrected_label_judges_both() -> None:
    old = {"1": Prediction("1", "a", "a", 0.9), "2": Prediction("2", "a", "a", 0.9)}
    new = {"1": Prediction("1", "b", "b", 0.9), "2": Prediction("2", "a", "a", 0.9)}
    found = compare(old, new, 100)
    assert found is not None and (found.champion, found.challenger) == (0.5, 1.0)


def test_pairing_sees_what_two_intervals_would_miss() -> None:
    rng = random.Random(0)
    wrong = set(rng.sample(range(1000), 100))
    found = compare(
        predictions(1000, wrong), predictions(1000, wrong | set(range(1000, 1012))), 1000
    )
    assert found is not None and not found.is_loss
    extra = set(rng.sample(sorted(set(range(1000)) - wrong), 12))
    found = compare(predictions(1000, wrong), predictions(1000, wrong | extra), 2000)
    assert found is not None and found.is_loss  # 1.2 points, where each accuracy has +-1.9


def test_predictions_survive_writing_and_reading(tmp_path) -> None:  # type: ignore[no-untyped-def]
    items = [
        Prediction("ff", 'a "quoted", name', "b", 0.5),
        Prediction("00", "c\nd", "<b>", 0.1234),
    ]
    _write_csv(tmp_path / "p.csv", Table(COLUMNS, rows(items)))
    text = (tmp_path / "p.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "chip,label,predicted,confidence"
    assert parse_table(text, "test") == {item.chip: item for item in items}


@pytest.mark.parametrize(
    "text", ["chip,label\n1,2\n", "chip,label,predicted,confidence\n1,a,b,x\n"]
)
def test_a_table_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="predictions.csv of main is not a table of predictions"):
        parse_table(text, "predictions.csv of main")
