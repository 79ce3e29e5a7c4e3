"""Shares, choices and guard rails, without a clock, a file or a network. `make bench-routing`.

Thompson sampling chooses each arm as often as it is the best one by what is known. That
probability is computed here when rewards come, not sampled with each request: so a choice costs
microseconds, every replica with the same labels has the same shares, a caller can keep its arm,
and the propensity that an answer carries is exact.
"""

import hashlib
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from service.routing.rules import Guard

SPREAD = 8.0  # standard deviations to each side of a mean, where a density is looked at
POINTS = 401  # of each arm
STARTED = 5  # labels from which on the shares of the file no longer count
GREED = 3  # power of P(best): 1 is Thompson sampling, and more loses less where labels are few
CERTAIN = 0.95  # P(best) at which a promotion is proposed
SCALE = 1_000_000  # whole numbers, so that sums stay exact however long they run


class Reward(NamedTuple):
    """Labels of an arm's answers."""

    right: int = 0
    wrong: int = 0


def probability_best(rewards: Sequence[Reward]) -> list[float]:
    """The probability of each arm that its accuracy is the highest.

    Accuracies have the density Beta(1 + right, 1 + wrong); P(i) is the integral of the density of i
    times the distributions of all others, by the trapezium rule where any density is not 0.
    """
    if len(rewards) < 2:
        return [1.0] * len(rewards)
    a, b = (np.array(side, np.float64) + 1 for side in zip(*rewards, strict=True))  # (K,)
    mean, spread = a / (a + b), SPREAD * np.sqrt(a * b / (a + b + 1)) / (a + b)
    near = np.linspace(np.maximum(mean - spread, 1e-9), np.minimum(mean + spread, 1 - 1e-9), POINTS)
    x = np.unique(near)  # (N,)
    constant = np.array([_log_beta(*pair) for pair in zip(a, b, strict=True)])
    density = np.exp(np.outer(a - 1, np.log(x)) + np.outer(b - 1, np.log1p(-x)) - constant[:, None])
    steps = (density[:, 1:] + density[:, :-1]) / 2 * np.diff(x)  # (K, N - 1)
    below = np.concatenate([np.zeros((len(a), 1)), np.cumsum(steps, axis=1)], axis=1)
    below /= below[:, -1:]  # (K, N)
    middle, mass = (below[:, 1:] + below[:, :-1]) / 2, np.diff(below, axis=1)
    best = [mass[i] @ np.delete(middle, i, axis=0).prod(axis=0) for i in range(len(a))]
    total = sum(best)
    return [float(one / total) for one in best]


def learnt(start: Sequence[float], rewards: Sequence[Reward], floor: float) -> list[float]:
    """The shares of the arms: those of the file at first, then by how surely each is the best."""
    weight = min(1.0, sum(map(sum, rewards)) / STARTED)
    greedy = [one**GREED for one in probability_best(rewards)]
    room = 1 - floor * len(greedy)
    return [
        floor + room * (weight * one / math.fsum(greedy) + (1 - weight) * share)
        for one, share in zip(greedy, start, strict=True)
    ]


def over(shares: Sequence[float], able: Sequence[bool]) -> list[float]:
    """The same shares over those who can answer; all 0 where nobody can."""
    kept = [share if one else 0.0 for share, one in zip(shares, able, strict=True)]
    total = math.fsum(kept)
    if total > 0:
        return [share / total for share in kept]
    return [one / max(sum(able), 1) for one in able]


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


class Chooser:
    """Chooses an arm: at random, or the same one for the same key, both with these shares.

    For a key each arm draws a number by a hash, and the earliest of exponential times wins
    (weighted rendezvous hashing): where an arm leaves or shares change, only the callers whose
    shares moved get another arm.
    """

    def __init__(self, name: str, arms: Sequence[str], shares: Sequence[float]) -> None:
        """Deal by the name of the rules, so that two trials deal differently."""
        self.shares = list(shares)
        self._every = range(len(arms))
        self._bounds = list(np.cumsum(shares))
        self._seeds = [hashlib.blake2b(f"{name}\0{arm}\0".encode(), digest_size=8) for arm in arms]

    def choose(self, key: bytes = b"") -> int:
        """The index of an arm; without a key at random."""
        if not key:
            return random.choices(self._every, cum_weights=self._bounds)[0]
        earliest, found = math.inf, 0
        for index, (seed, share) in enumerate(zip(self._seeds, self.shares, strict=True)):
            if share > 0:
                drawn = seed.copy()
                drawn.update(key)
                number = (int.from_bytes(drawn.digest(), "big") + 1) / 2**64  # in (0, 1]
                if (when := -math.log(number) / share) < earliest:
                    earliest, found = when, index
        return found


class Window:
    """The last answers of an arm against its guard rails."""

    def __init__(self, guard: Guard) -> None:
        """Empty. Each limit is one of a sum over `requests` answers."""
        count = guard.requests
        self._last: deque[tuple[int, ...]] = deque(maxlen=count)
        self._sums = [0, 0, 0]
        limits = (
            guard.errors,
            guard.latency_ms,
            None if guard.confidence is None else 1 - guard.confidence,
        )
        self._limits = [None if one is None else round(one * count * SCALE) for one in limits]
        self._said = (
            f"more than {guard.errors} of its last {count} answers failed",
            f"its last {count} answers took more than {guard.latency_ms} ms each",
            f"the confidence of its last {count} answers was below {guard.confidence}",
        )

    def add(self, failed: bool, seconds: float = 0.0, confidence: float = 1.0) -> str:
        """Count an answer; returns why the arm is beyond its limits, or nothing.

        It says so as soon as no better answers to come could keep the arm within them: after
        `requests` answers at the latest.
        """
        doubt = 1 - confidence if math.isfinite(confidence) else 1.0
        fresh = tuple(round(one * SCALE) for one in (float(failed), seconds * 1000, doubt))
        gone = self._last[0] if len(self._last) == self._last.maxlen else (0, 0, 0)
        self._last.append(fresh)
        for index, (new, old) in enumerate(zip(fresh, gone, strict=True)):
            self._sums[index] += new - old
        for total, limit, said in zip(self._sums, self._limits, self._said, strict=True):
            if limit is not None and total > limit:
                return said
        return ""

    def clear(self) -> None:
        """Begin anew."""
        self._last.clear()
        self._sums = [0, 0, 0]


class Proposal(NamedTuple):
    """A promotion that the labels speak for. A person makes it."""

    arm: str
    tag: str
    text: str
    command: str


def propose(
    arms: Sequence[str], tags: Sequence[str], rewards: Sequence[Reward], labels: int
) -> Proposal | None:
    """Propose the arm that is the best one with certainty, once each has so many labels."""
    if len(arms) < 2 or min(map(sum, rewards)) < labels:
        return None
    best = probability_best(rewards)
    index = max(range(len(best)), key=best.__getitem__)
    if best[index] < CERTAIN:
        return None
    accuracy = [f"{tag} {one.right}/{sum(one)}" for tag, one in zip(tags, rewards, strict=True)]
    text = f"P(best) of {tags[index]} is {best[index]:.3f}; right: {', '.join(accuracy)}"
    name, _, version = tags[index].partition("@")
    if arms[index] == "default":
        return Proposal(arms[index], tags[index], f"{text}: keep it, and end the trial", "")
    command = f"make promote VERSION={version} STAGE=production" if version else ""
    cure = f"promote {name}" if version else "register it as a version, then promote it"
    return Proposal(arms[index], tags[index], f"{text}: {cure}", command)
