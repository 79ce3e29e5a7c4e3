"""Two sections of the dashboard "Model": what people say of its answers, and what serves where."""

from monitoring.dashboards.definition import MODEL as OF
from monitoring.dashboards.definition import NAMESPACE, Panel, Query, Section, Threshold
from monitoring.dashboards.promql import RATE, largest, quantile, rate

TRUTH = Section(
    "What people say",
    (
        Panel(
            "Live accuracy, its interval and the floor",
            "Accuracy by people's answers with its 95 % interval; under the floor, "
            "LiveAccuracyLow trains again.",
            "timeseries",
            "percentunit",
            (
                Query(largest("model_live_accuracy", OF, "tag"), "{{tag}}"),
                Query(largest("model_live_accuracy_low", OF, "tag"), "low {{tag}}", "dashed"),
                Query(largest("model_live_accuracy_high", OF, "tag"), "high {{tag}}", "dashed"),
                Query(largest("model_accuracy_floor", OF, "tag"), "floor {{tag}}", "limit"),
            ),
            width=12,
            height=9,
            minimum=None,
            maximum=1,
        ),
        Panel(
            "Confusion",
            "What the model said (rows), and what people say it is (columns), in the window.",
            "table",
            "short",
            (
                Query(
                    "sum by (predicted, label) "
                    f"({largest('model_feedback_confusion', OF, 'tag, predicted, label')})",
                    "answers",
                ),
            ),
            width=12,
            height=9,
            matrix=("predicted", "label"),
        ),
        Panel(
            "Answers in the window",
            "How many predictions of each model were answered.",
            "timeseries",
            "short",
            (Query(largest("model_feedback_answers", OF, "tag"), "{{tag}}"),),
        ),
        Panel(
            "Delay of the answers",
            "Time from a prediction to its first answer: so old is what live accuracy says.",
            "timeseries",
            "s",
            tuple(
                Query(quantile(share, "model_feedback_delay_seconds", NAMESPACE, "", "1h"), name)
                for share, name in ((0.5, "median"), (0.9, "90 %"))
            ),
        ),
        Panel(
            "Not recorded",
            "Predictions whose record was lost; answers to them will find nothing.",
            "timeseries",
            "ops",
            (Query(rate("feedback_unrecorded_total", NAMESPACE, "reason"), "{{reason}}"),),
        ),
    ),
)

SERVING = Section(
    "What serves",
    (
        Panel(
            "What serves where",
            "The model and its digest on every replica, and how many workers serve it.",
            "table",
            "short",
            (Query(f"sum by (instance, tag, sha256) (model_info{{{OF}}}) > 0", "workers"),),
            width=12,
        ),
        Panel(
            "What served when",
            "Which model each replica served; the value counts its workers.",
            "statetimeline",
            "short",
            (Query(f"sum by (instance, tag) (model_info{{{OF}}}) > 0", "{{instance}} {{tag}}"),),
            width=12,
            base="blue",
        ),
        Panel(
            "Swaps",
            "Swaps, and the step at which they ended; failing ones raise SwapFailing.",
            "timeseries",
            "short",
            (
                Query(
                    "sum by (result, step) "
                    f"(increase(model_swaps_total{{{NAMESPACE}}}[{RATE}]))",
                    "{{result}} {{step}}",
                ),
            ),
            width=12,
        ),
        Panel(
            "What is wanted, by replica",
            "Where a replica serves another model than is wanted; lasting, ReplicasDisagree.",
            "statetimeline",
            "short",
            (
                Query(
                    f"{largest('model_wanted_mismatch', NAMESPACE, 'instance')} > bool 0",
                    "{{instance}}",
                ),
            ),
            width=12,
            thresholds=(Threshold(1, "red"),),
            texts=("as wanted", "another"),
        ),
    ),
)
