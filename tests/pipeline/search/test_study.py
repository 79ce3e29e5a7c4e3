"""A search: suggestions, counting, budgets, failures and resuming."""

import signal
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import Trial, TrialState

from pipeline import train
from pipeline.errors import DataError, TrainingError
from pipeline.search import study
from pipeline.search import trial as trials
from pipeline.search.journal import open_storage
from pipeline.search.sampling import pruner_of
from pipeline.search.study import INTERRUPTED, Outcome, Search, counts, outcome, resume
from pipeline.search.workers import Stopped, work
from tests.pipeline.search.conftest import Begin

GRID = {"model.width": {"choice": [4, 8]}, "train.max_shift": {"choice": [0, 1]}}


def score(search: Search, value: float, **facts: Any) -> Trial:
    """Record a trial without training."""
    asked = search.ask()
    assert asked
    asked[0].set_user_attr("point", asked[1])
    asked[0].report(value, 1)
    search.tell(asked[0], Outcome(TrialState.COMPLETE, value, **facts))
    return asked[0]


def points(search: Search) -> list[dict[str, Any]]:
    return [trial.params for trial in search.trials()]


@pytest.mark.parametrize("sampler", ["random", "tpe", "cma-es"])
def test_one_seed_and_history_give_the_same_points_also_after_a_resume(
    begin: Begin, sampler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    space = {
        "train.learning_rate": {"float": [0.001, 0.05], "log": True},
        "train.weight_decay": {"float": [0.0, 0.1]},
    }
    plan = {"space": space, "sampler": sampler, "budget": {"trials": 16}}
    search = begin(**plan)
    for index in range(16):
        score(search, index % 5 / 10)
    monkeypatch.setattr(study, "LAST", tmp_path / "last.txt")
    monkeypatch.setattr("pipeline.search.journal.JOURNAL", tmp_path / "other" / "journal.log")
    for index in range(16):
        score(begin(**plan), index % 5 / 10)  # killed and resumed before each trial
    again = resume(open_storage())
    assert points(again) == points(search)
    assert len({tuple(point.items()) for point in points(search)}) == 16
    assert points(begin(**plan, seed=7))[1:] != points(search)[1:]


def test_the_first_trial_is_params_yaml_and_one_outside_of_the_space_too(begin: Begin) -> None:
    asked = begin().ask()
    assert asked and asked[1] == {"train.learning_rate": 0.02, "model.width": 4}
    asked = begin(space={"model.width": {"choice": [8, 16]}}).ask()
    assert asked and asked[1] == {}


def test_a_change_of_the_budget_goes_on_and_another_space_begins_anew(begin: Begin) -> None:
    first = begin(budget={"trials": 1})
    score(first, 0.5)
    assert first.state == ("succeeded", "1 trials") and first.ask() is None
    longer = begin(budget={"trials": 2})
    assert longer.name == first.name and longer.ask() is not None
    assert begin(space=GRID).name != first.name


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"trials": 3}, "3 trials"),
        ({"trials": 9, "hours": 0.01}, "0.01 hours"),
        ({"trials": 9, "gpu_minutes": 0.5}, "0.6 GPU minutes"),
        ({"trials": 9, "target": 0.7}, "the target 0.7"),
        ({"trials": 9, "patience": 2}, "2 trials without a better one"),
    ],
)
def test_the_first_limit_of_the_budget_ends_the_search(
    begin: Begin, budget: dict[str, float], said: str
) -> None:
    search = begin(budget=budget)
    for value in (0.6, 0.5, 0.7) if "target" in budget else (0.6, 0.5, 0.4):
        assert search.state == ("running", "")
        score(search, value, seconds=12.5, device="cuda")
    assert search.state == ("succeeded", said)


def test_the_best_of_equal_scores_has_the_lower_loss(begin: Begin) -> None:
    search = begin()
    for loss in (0.4, 0.2, 0.3):
        score(search, 0.5, loss=loss)
    best = search.best()
    assert best and best.number == 1


def test_a_grid_is_tried_once_and_then_over(begin: Begin) -> None:
    search = begin(space=GRID, sampler="grid", budget={})
    for value in (0.1, 0.2, 0.3, 0.4, 0.5):
        score(search, value)
    assert search.state == ("succeeded", "the whole grid") and search.ask() is None
    grid = [tuple(point.values()) for point in points(search)[1:]]  # the first is params.yaml
    assert sorted(grid) == [(4, 0), (4, 1), (8, 0), (8, 1)]


def test_two_workers_that_ask_at_once_begin_no_trial_too_many(begin: Begin) -> None:
    search, other = begin(budget={"trials": 2}), begin(budget={"trials": 2})
    begun = [search.ask(), other.ask(), search.ask(), other.ask()]
    assert sum(one is not None for one in begun) == 2


def test_a_trial_of_a_dead_worker_is_trained_again_three_times_and_then_counts(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = begin(budget={"trials": 1})
    first: dict[str, Any] = {}
    for attempt in range(study.TRIES):
        asked = search.ask()
        assert asked
        first = first or asked[1]
        assert asked[1] == first
        asked[0].set_user_attr("worker", study.signature().replace(" ", " 1", 1))  # no such process
        search.reap()
        search.reap()  # two may look at once
        assert len(search.trials()) == min(attempt + 2, study.TRIES)
    assert search.state[0] == "failed"
    assert [counts(trial) for trial in search.trials()] == [False, False, True]


def test_a_worker_of_another_machine_is_dead_when_its_pulse_ends(begin: Begin) -> None:
    begin()
    assert study.is_dead("elsewhere 12 1.0", elsewhere=True)
    path = study._pulse("elsewhere 12 1.0")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert not study.is_dead("elsewhere 12 1.0", elsewhere=True)
    assert not study.is_dead(study.signature(), elsewhere=True)


def test_a_point_that_diverges_counts_and_the_search_goes_on(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def augment(*arguments: Any) -> Any:
        chips, labels = arguments[:2]
        return chips * float("nan"), labels

    search = begin()
    monkeypatch.setattr(train, "augment", augment)
    work(search)
    kinds = [outcome(trial)["kind"] for trial in search.trials()]
    assert kinds == ["invalid"] * 3 and search.state == ("failed", "3 trials")
    assert "lower train.learning_rate" in outcome(search.trials()[0])["why"]


def test_a_point_that_needs_too_much_memory_counts(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def augment(*arguments: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    search = begin(budget={"trials": 1})
    monkeypatch.setattr(train, "augment", augment)
    work(search)
    assert outcome(search.trials()[0])["why"] == "out of memory"
    assert search.state[0] == "failed"


def test_broken_code_pauses_the_search_which_then_tries_the_point_again(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def augment(*arguments: Any) -> Any:
        raise TypeError("augment() takes 4 arguments")

    search = begin(budget={"trials": 1})
    with monkeypatch.context() as patch:
        patch.setattr(train, "augment", augment)
        with pytest.raises(
            TrainingError, match=r"the search is paused.*TypeError: augment\(\) takes 4 arg.*py:"
        ):
            work(search)
    assert search.state[0] == "paused" and search.ask() is None
    mended = begin(budget={"trials": 1})
    work(mended)
    best = mended.best()
    assert mended.state == ("succeeded", "1 trials")
    assert best and best.params == mended.trials()[0].params


def test_an_interrupted_trial_goes_on_from_its_checkpoint(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search = begin(budget={"trials": 1})
    run, epochs = trials.run, 0

    def interrupted(search: Any, trial: Any, point: Any, shared: Any, _: Any) -> Outcome:
        def heed() -> None:
            raise KeyboardInterrupt

        return run(search, trial, point, shared, heed)

    with monkeypatch.context() as patch:
        patch.setattr(trials, "run", interrupted)
        heard = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            work(search)
    assert signal.getsignal(signal.SIGINT) is heard, "what starts programs next is interruptible"
    assert outcome(search.trials()[0])["kind"] == INTERRUPTED
    work(begin(budget={"trials": 1}))
    assert "going on after epoch 1 of 2" in capsys.readouterr().out
    first, second = search.trials()
    assert (second.params, len(second.intermediate_values)) == (first.params, 2)
    assert outcome(second)["epochs"] == 1 + epochs, "the first epoch was not trained again"
    assert not list(trials.CHECKPOINTS.rglob("*.pt"))


def test_a_search_that_is_cancelled_ends_and_a_run_takes_it_up(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = begin()
    run = trials.run

    def cancelled(*arguments: Any) -> Outcome:
        search.set_state("cancelled", "by a person")
        return run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trials, "run", cancelled)
        work(search)
    assert search.state == ("cancelled", "by a person")
    work(begin())
    assert search.state == ("succeeded", "3 trials")


def test_curves_prune_but_not_before_the_grace_and_not_the_last_epoch(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {
        "train.learning_rate": {"choice": [0.03, 1e-12]},
        "train.epochs": {"choice": [6, 7]},
    }
    search = begin(space=rates, sampler="grid", budget={}, pruner="asha", grace=2, objective="loss")
    work(search)
    states = {trial.state for trial in search.trials()}
    assert TrialState.PRUNED in states and TrialState.COMPLETE in states
    for trial in search.trials():
        ran = len(trial.intermediate_values)
        assert ran >= 2 if trial.state == TrialState.PRUNED else ran >= 2


@pytest.mark.parametrize("word", ["none", "median", "asha", "hyperband"])
def test_each_pruner_is_one_word(begin: Begin, word: str) -> None:
    search = begin(pruner=word, grace=1)
    assert type(search.study.pruner) is type(pruner_of(search.plan, 2))
    asked = search.ask()
    assert asked
    asked[0].report(0.5, 1)
    assert asked[0].should_prune() is False, "alone, a trial is not behind"


def test_a_point_that_was_trained_is_not_trained_again(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = begin(space={"model.width": {"choice": [4, 8]}}, sampler="grid", budget={})
    work(search)
    scores = {trial.params["model.width"]: trial.value for trial in search.trials()}
    assert [outcome(trial)["epochs"] for trial in search.trials()] == [2, 0, 2]
    assert search.trials()[1].value == scores[4] == search.trials()[0].value


def test_a_search_is_found_by_name_and_a_wrong_name_is_a_sentence(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = begin()
    assert resume(open_storage()).name == resume(open_storage(), search.name).name == search.name
    with pytest.raises(DataError, match="there is no search s-9: python -m pipeline.search list"):
        resume(open_storage(), "s-9")
    monkeypatch.setattr(study, "LAST", tmp_path / "nothing")
    with pytest.raises(DataError, match="no search has run here: make search"):
        resume(open_storage())


def test_the_test_split_is_not_read(begin: Begin) -> None:
    for path in Path("artifacts/chips").glob("test*"):
        path.unlink()
    search = begin(budget={"trials": 1})
    work(search)
    assert search.best()


def test_a_worker_whose_parent_is_gone_ends(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    search, parents = begin(), iter([1, 1, 2])
    monkeypatch.setattr("os.getppid", lambda: next(parents))
    work(search)
    assert [outcome(trial)["kind"] for trial in search.trials()] == [INTERRUPTED]
    assert issubclass(Stopped, BaseException)
