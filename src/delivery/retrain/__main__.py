"""Command: train again on new data, and propose the result as a merge request.

    python -m delivery.retrain                                   ingest according to ci/ingest.txt
    python -m delivery.retrain --ingest folder --path incoming   ingest these first

A run that a trigger started answers an alert: the payload is parsed (delivery/retrain/alert.py)
and committed as reports/drift.json. For --cool-down hours after the start of a retraining, alerts
start no other (delivery/retrain/cooldown.py); schedules and people do not have to wait.

The branch `retrain` is the proposal: while it exists on origin, one is open and this does nothing.
Its merge request is created by push options, so Git suffices; the pipeline of that merge request
finds the model trained, posts the report and judges it like any other. A worse model is proposed as
a draft, which people can inspect but not merge.
"""

import os
from argparse import REMAINDER, ArgumentTypeError

from contracts import commands
from delivery.errors import command
from delivery.git import Repository
from delivery.retrain import cooldown
from delivery.retrain.alert import VARIABLE
from delivery.retrain.retraining import answer_alert, read_ingest, retrain


@command
def main() -> None:
    """Ingest, train, propose."""
    parser = commands.parser("delivery.retrain", __doc__)
    parser.add_argument("--target", default="main", help="branch to merge into (default: main)")
    parser.add_argument(
        "--cool-down",
        type=_hours,
        default=cooldown.HOURS,
        metavar="HOURS",
        help="between two retrainings requested by alerts (default: %(default)g)",
    )
    parser.add_argument(
        "--ingest", nargs=REMAINDER, metavar="WORD", help="arguments of pipeline.ingest, to the end"
    )
    options = parser.parse_args()
    words = read_ingest() if options.ingest is None else options.ingest
    repository = Repository()
    # Both are checked: whoever triggers a pipeline may set its variables, where GitLab allows it.
    if os.environ.get("CI_PIPELINE_SOURCE") == "trigger" or os.environ.get(VARIABLE):
        result = answer_alert(repository, options.target, words, options.cool_down)
    else:
        result = retrain(repository, options.target, words)
    print(f"retrain: {result}")


def _hours(text: str) -> float:
    try:
        return cooldown.read_hours(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text[:32]!a} is not a number of hours from 0 to 8760 (COOL_DOWN)"
        ) from None


if __name__ == "__main__":
    main()
