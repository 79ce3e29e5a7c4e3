"""Simulates `service.routing.policy`: `make bench-routing`.

Regret is the number of right answers that were missed because the best arm did not answer each
request. Labels come for a share of the answers, and late; shares are computed anew every 25
requests. Beside it: how rare an arm becomes, when a guard rail cuts one off, and what a choice
costs.
"""

import argparse
import random
from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from benchmarks import machine
from service.routing.policy import Chooser, Reward, Window, learnt
from service.routing.rules import Guard

REQUESTS, EVERY, SEEDS, FLOOR = 5000, 25, 300, 0.01
CASES = {".90 .93 .85": (0.90, 0.93, 0.85), ".50 .80": (0.50, 0.80)}
LABELS = {"every label": (1.0, 0), "5 %, 500 late": (0.05, 500)}


class Outcome(NamedTuple):
    """One simulated run."""

    regret: float
    least: float
    """The smallest share that an arm ever had."""
    last: list[float]
    """Shares at the end."""


def simulate(
    accuracies: Sequence[float], labelled: float, late: int, seed: int, floor: float | None
) -> Outcome:
    """Answer REQUESTS requests; without a floor the shares stay equal."""
    random.seed(seed)
    arms = [f"arm{i}" for i in range(len(accuracies))]
    shares = [1 / len(arms)] * len(arms)
    chooser, counts, waiting = Chooser("trial", arms, shares), [[0, 0] for _ in arms], []
    regret, least = 0.0, min(shares)
    for number in range(REQUESTS):
        arm = chooser.choose()
        regret += max(accuracies) - accuracies[arm]
        right = random.random() < accuracies[arm]
        if random.random() < labelled:
            waiting.append((number + late, arm, right))
        while waiting and waiting[0][0] <= number:
            _, of, was_right = waiting.pop(0)
            counts[of][not was_right] += 1
        if floor is not None and number % EVERY == 0:
            shares = learnt([1 / len(arms)] * len(arms), [Reward(*one) for one in counts], floor)
            least, chooser = min(least, *shares), Chooser("trial", arms, shares)
    return Outcome(regret, least, shares)


def requests_until_cut(
    guard: Guard, failing: float, seconds: float, confidence: float, seed: int
) -> int:
    """How many requests a harmful arm gets."""
    random.seed(seed)
    window, count = Window(guard), 1
    while not window.add(random.random() < failing, seconds, confidence):
        count += 1
    return count


def seconds_of_a_choice(key: bytes, count: int = 20_000) -> float:
    """Mean of one choice among three arms."""
    chooser = Chooser("trial", ["a", "b", "c"], [0.5, 0.3, 0.2])
    started = perf_counter()
    for _ in range(count):
        chooser.choose(key)
    return (perf_counter() - started) / count


def main() -> None:
    """Print the tables."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(machine.line())
    print(f"{REQUESTS} requests, {SEEDS} seeds, mean and standard deviation of the regret\n")
    print("| accuracies | labels | equal split | learn | of equal | least share |")
    print("|---|---|---|---|---|---|")
    for case, accuracies in CASES.items():
        for said, (labelled, late) in LABELS.items():
            equal, found = (
                [simulate(accuracies, labelled, late, seed, floor) for seed in range(SEEDS)]
                for floor in (None, FLOOR)
            )
            split = np.mean([run.regret for run in equal])
            regrets = np.array([run.regret for run in found])
            least = min(run.least for run in found)
            print(
                f"| {case} | {said} | {split:.0f} | {regrets.mean():.0f} +- {regrets.std():.0f} "
                f"| {regrets.mean() / split:.2f} | {least:.3f} |"
            )
    guard = Guard(requests=50, errors=0.1, latency_ms=80, confidence=0.5)
    for said, failing, confidence in (
        *(("every answer fails", 1.0, 0.9), ("3 of 10 fail", 0.3, 0.9)),
        *(("its confidence is 0.3", 0.0, 0.3), ("it takes 0.2 s", 0.0, 0.9)),
    ):
        seconds = 0.2 if said == "it takes 0.2 s" else 0.01
        counts = [
            requests_until_cut(guard, failing, seconds, confidence, seed) for seed in range(100)
        ]
        print(f"\n{said}: cut off after {min(counts)} to {max(counts)} requests, 100 seeds", end="")
    print(f"\n\na choice: {seconds_of_a_choice(b'') * 1e6:.1f} us at random", end=", ")
    print(f"{seconds_of_a_choice(b'caller-12') * 1e6:.1f} us by a key")
    rewards = [Reward(900, 100), Reward(930, 70), Reward(850, 150)]
    started = perf_counter()
    for _ in range(200):
        learnt([1 / 3] * 3, rewards, FLOOR)
    print(f"new shares from rewards: {(perf_counter() - started) / 200 * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
