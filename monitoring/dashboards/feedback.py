"""Two sections of the dashboard "Model": labels of people, and the models that serve."""

from monitoring.dashboards.definition import MODEL as OF
from monitoring.dashboards.definition import NAMESPACE, Panel, Query, Section, Threshold
from monitoring.dashboards.promql import RATE, largest, quantile, rate

LABELS = Section(
    "Labels of people",
    (
        Panel(
            "Live accuracy, its interval and the floor",
            "Accuracy according to labels, with its 95 % interval; below the floor "
            "LiveAccuracyLow starts a training.",
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
            "Predicted class (rows) and label (columns) in the window.",
            "table",
            "short",
            (
                Query(
                    "sum by (predicted, label) "
                    f"({largest('model_feedback_confusion', OF, 'tag, predicted, label')})",
                    "labels",
                ),
            ),
            width=12,
            height=9,
            matrix=("predicted", "label"),
        ),
        Panel(
            "Labels in the window",
            "Labelled predictions of each model.",
            "timeseries",
            "short",
            (Query(largest("model_feedback_answers", OF, "tag"), "{{tag}}"),),
        ),
        Panel(
            "Delay of the labels",
            "Time from a prediction to its first label: the age of the live accuracy.",
            "timeseries",
            "s",
            tuple(
                Query(quantile(share, "model_feedback_delay_seconds", NAMESPACE, "", "1h"), name)
                for share, name in ((0.5, "median"), (0.9, "90 %"))
            ),
        ),
        Panel(
            "Not recorded",
            "Predictions that were not recorded; they cannot be labelled.",
            "timeseries",
            "ops",
            (Query(rate("feedback_unrecorded_total", NAMESPACE, "reason"), "{{reason}}"),),
        ),
    ),
)

SERVING = Section(
    "Serving",
    (
        Panel(
            "What serves where",
            "Model and digest on every replica, and the number of workers that serve it.",
            "table",
            "short",
            (Query(f"sum by (instance, tag, sha256) (model_info{{{OF}}}) > 0", "workers"),),
            width=12,
        ),
        Panel(
            "What served when",
            "The model that each replica served; the value is the number of its workers.",
            "statetimeline",
            "short",
            (Query(f"sum by (instance, tag) (model_info{{{OF}}}) > 0", "{{instance}} {{tag}}"),),
            width=12,
            base="blue",
        ),
        Panel(
            "Swaps",
            "Swaps by result and last step; SwapFailing fires when they fail.",
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
            "Desired model, by replica",
            "Replicas that do not serve the desired model; ReplicasDisagree fires if it lasts.",
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
            texts=("desired", "another"),
        ),
    ),
)
