"""Shares, choices, guard rails and proposals: counts of seeded runs, no times."""

import random
from collections import Counter

import numpy as np
import pytest

from benchmarks.routing import requests_until_cut, simulate
from service.routing.policy import (
    Chooser,
    Reward,
    Window,
    learnt,
    over,
    probability_best,
    propose,
)
from service.routing.rules import Guard

V1, V2 = "landcover@v1.0.0", "landcover@v1.1.0"


@pytest.mark.parametrize(
    "counts",
    [
        [(0, 0), (0, 0), (3, 1)],
        [(9, 1), (12, 0), (5, 3)],
        [(90, 10), (93, 7), (85, 15)],
        [(90_000, 10_000), (90_200, 9_800)],
        [(0, 0), (500, 0)],
        [(0, 400), (400, 0)],
    ],
)
def test_the_probability_of_being_best_is_that_of_many_draws(counts: list[tuple[int, int]]) -> None:
    drawn = np.stack([np.random.default_rng(1).beta(1 + a, 1 + b, 100_000) for a, b in counts])
    drawn = np.stack([np.random.default_rng(i).permutation(row) for i, row in enumerate(drawn)])
    shares = np.bincount(drawn.argmax(0), minlength=len(counts)) / drawn.shape[1]
    found = probability_best([Reward(*pair) for pair in counts])
    assert found == pytest.approx(shares, abs=0.006)
    assert sum(found) == pytest.approx(1)


def test_one_arm_is_the_best() -> None:
    assert probability_best([Reward(1, 5)]) == [1.0]


def test_the_shares_of_the_file_hold_until_there_are_labels() -> None:
    nothing = [Reward(), Reward()]
    assert learnt([0.9, 0.1], nothing, 0.0) == pytest.approx([0.9, 0.1])
    assert learnt([0.9, 0.1], [Reward(0, 40), Reward(40, 0)], 0.0) == pytest.approx([0, 1])


def test_no_arm_gets_less_than_the_floor() -> None:
    shares = learnt([0.5, 0.5], [Reward(0, 400), Reward(400, 0)], 0.05)
    assert shares == pytest.approx([0.05, 0.95])


@pytest.mark.parametrize("key", ["random", "sticky"])
def test_a_choice_holds_the_shares(key: str) -> None:
    random.seed(3)
    chooser = Chooser("trial", ["a", "b", "c"], [0.7, 0.25, 0.05])
    keys = [b"" if key == "random" else b"caller-%d" % i for i in range(20_000)]
    found = Counter(map(chooser.choose, keys))
    assert [found[i] / 20_000 for i in range(3)] == pytest.approx([0.7, 0.25, 0.05], abs=0.01)


def test_a_caller_keeps_its_arm_and_only_those_whose_share_moved_get_another() -> None:
    before = Chooser("trial", ["a", "b", "c"], [0.5, 0.3, 0.2])
    without_b = Chooser("trial", ["a", "b", "c"], over([0.5, 0.3, 0.2], [True, False, True]))
    for i in range(2000):
        arm = before.choose(b"%d" % i)
        assert before.choose(b"%d" % i) == arm
        assert without_b.choose(b"%d" % i) == arm if arm != 1 else True
        assert without_b.choose(b"%d" % i) != 1


def test_another_trial_deals_differently() -> None:
    arms, shares = ["a", "b"], [0.5, 0.5]
    one, other = Chooser("one", arms, shares), Chooser("other", arms, shares)
    same = sum(one.choose(b"%d" % i) == other.choose(b"%d" % i) for i in range(2000))
    assert 900 < same < 1100


def test_the_shares_of_who_cannot_answer_go_to_the_others() -> None:
    assert over([0.8, 0.1, 0.1], [False, True, True]) == pytest.approx([0, 0.5, 0.5])
    assert over([1.0, 0.0], [False, True]) == [0.0, 1.0]
    assert over([1.0, 0.0], [False, False]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("guard", "answer", "said"),
    [
        ({"errors": 0.1}, (True, 0.0, 1.0), "failed"),
        ({"latency_ms": 50}, (False, 0.06, 1.0), "more than 50.0 ms"),
        ({"confidence": 0.5}, (False, 0.0, 0.4), "confidence"),
        ({"confidence": 0.5}, (False, 0.0, float("nan")), "confidence"),
    ],
)
def test_a_harmful_arm_is_cut_off_within_the_requests_of_its_guard(
    guard: dict[str, float], answer: tuple[bool, float, float], said: str
) -> None:
    window = Window(Guard.model_validate({"requests": 20} | guard, strict=False))
    for _ in range(100):  # good ones before do not help it for longer
        assert window.add(False, 0.001, 0.9) == ""
    found = next(i for i in range(1, 100) if said in window.add(*answer))
    assert found <= 20


def test_a_good_arm_stays_however_long_it_answers() -> None:
    window = Window(Guard(requests=50, errors=0.1, latency_ms=50, confidence=0.5))
    random.seed(5)
    for i in range(5000):
        assert window.add(i % 25 == 0, random.uniform(0.01, 0.06), random.uniform(0.4, 1)) == ""


def test_simulated_arms_converge_with_little_regret_above_the_floor() -> None:
    accuracies = (0.5, 0.8)
    runs = [simulate(accuracies, 1.0, 0, seed, 0.01) for seed in range(3)]
    assert max(run.regret for run in runs) <= 0.2 * 750
    assert min(run.last[1] for run in runs) > 0.9
    assert min(run.least for run in runs) >= 0.01


def test_few_and_late_labels_still_beat_an_equal_split() -> None:
    runs = [simulate((0.5, 0.8), 0.05, 500, seed, 0.01) for seed in range(6)]
    assert np.mean([run.regret for run in runs]) <= 0.6 * 750


def test_an_arm_that_fails_now_and_then_is_found_too() -> None:
    guard = Guard(requests=50, errors=0.1)
    assert max(requests_until_cut(guard, 0.3, 0.0, 1.0, seed) for seed in range(30)) <= 50


def test_a_promotion_is_proposed_with_certainty_and_enough_labels_of_each_arm() -> None:
    arms, tags = ["default", V2], [V1, V2]
    few = propose(arms, tags, [Reward(80, 20), Reward(97, 3)], 200)
    unsure = propose(arms, tags, [Reward(180, 20), Reward(181, 19)], 200)
    assert few is unsure is None
    found = propose(arms, tags, [Reward(180, 20), Reward(195, 5)], 200)
    assert found is not None
    assert (found.arm, found.command) == (V2, "make promote VERSION=v1.1.0 STAGE=production")
    assert "P(best) of landcover@v1.1.0 is 0.99" in found.text
    assert f"{V1} 180/200" in found.text


def test_what_serves_is_proposed_to_be_kept_and_what_has_no_version_to_get_one() -> None:
    rewards = [Reward(200, 0), Reward(100, 100)]
    kept = propose(["default", V2], [V1, V2], rewards, 200)
    assert kept is not None and kept.command == "" and "end the trial" in kept.text
    unnamed = propose(["experiment/1-2", "default"], ["experiment/1-2", V1], rewards, 200)
    assert unnamed is not None and unnamed.command == "" and "register it" in unnamed.text


def test_one_arm_alone_proposes_nothing() -> None:
    assert propose(["default"], [V1], [Reward(500, 0)], 10) is None
