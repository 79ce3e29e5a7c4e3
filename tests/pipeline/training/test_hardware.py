"""The number of threads: all of them, unless the cores are busy. The clock is a number here."""

import pytest
import torch

from pipeline.training.hardware import choose_threads


class Machine:
    """Steps that take a given time with one thread, and another with two."""

    def __init__(self, one: float, two: float) -> None:
        self._seconds = {1: one, 2: two}
        self._now = 0.0
        self.steps = 0

    def step(self) -> None:
        self._now += self._seconds[torch.get_num_threads()]
        self.steps += 1

    def clock(self) -> float:
        return self._now


pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.mark.parametrize(("two", "chosen"), [(0.5, 2), (1.4, 2), (1.6, 1), (30.0, 1)])
def test_one_thread_is_chosen_only_where_all_are_much_slower(two: float, chosen: int) -> None:
    machine = Machine(1.0, two)
    assert choose_threads(machine.step, machine.clock) == chosen
    assert torch.get_num_threads() == chosen


def test_the_choice_is_logged_with_the_way_to_overrule_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = Machine(1.0, 30.0)
    choose_threads(machine.step, machine.clock)
    assert "train: 1 CPU thread: 2 take more than 1.5 times as long" in capsys.readouterr().out


def test_slow_threads_are_timed_no_longer_than_it_takes_to_know() -> None:
    machine = Machine(1.0, 30.0)
    choose_threads(machine.step, machine.clock)
    assert machine.steps == 1 + 3 + 1 + 1


def test_a_number_that_the_user_has_set_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    machine = Machine(1.0, 30.0)
    assert choose_threads(machine.step, machine.clock) == 2
    assert machine.steps == 0


def test_a_single_core_leaves_nothing_to_choose() -> None:
    torch.set_num_threads(1)
    machine = Machine(1.0, 30.0)
    assert choose_threads(machine.step, machine.clock) == 1
    assert machine.steps == 0
