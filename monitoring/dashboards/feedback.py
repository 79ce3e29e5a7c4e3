"""Two sections of the dashboard "Model": labels of people, and the models that serve."""

from monitoring.dashboards.definition import MODEL as OF
from monitoring.dashboards.definition import OWN, Query, Threshold, chart, section
from monitoring.dashboards.promql import RATE, largest, quantile, rate

LABELS = section(
    "Labels of people",
    chart(
        "Live accuracy, its interval and the floor",
        "Accuracy according to labels, with its 95 % interval; below the floor "
        "LiveAccuracyLow starts a training.",
        "percentunit",
        Query(largest("model_live_accuracy", OF, "tag"), "{{tag}}"),
        Query(largest("model_live_accuracy_low", OF, "tag"), "low {{tag}}", "dashed"),
        Query(largest("model_live_accuracy_high", OF, "tag"), "high {{tag}}", "dashed"),
        Query(largest("model_accuracy_floor", OF, "tag"), "floor {{tag}}", "limit"),
        width=12,
        height=9,
        minimum=None,
        maximum=1,
    ),
    chart(
        "Confusion",
        "Predicted class (rows) and label (columns) in the window.",
        "short",
        Query(
            "sum by (predicted, label) "
            f"({largest('model_feedback_confusion', OF, 'tag, predicted, label')})",
            "labels",
        ),
        kind="table",
        width=12,
        height=9,
        matrix=("predicted", "label"),
    ),
    chart(
        "Objects, as people confirmed them",
        "F1, precision and recall at an overlap of half, of a model that finds objects.",
        "percentunit",
        Query(largest("model_live_f1", OF, "tag"), "F1 {{tag}}"),
        Query(largest("model_live_precision", OF, "tag"), "precision {{tag}}", "dashed"),
        Query(largest("model_live_recall", OF, "tag"), "recall {{tag}}", "dashed"),
        width=6,
        maximum=1,
        needs="objects",
    ),
    chart(
        "Labels in the window",
        "Labelled predictions of each model.",
        "short",
        Query(largest("model_feedback_answers", OF, "tag"), "{{tag}}"),
        width=6,
    ),
    chart(
        "Delay of the labels",
        "Time from a prediction to its first label: the age of the live accuracy.",
        "s",
        *tuple(
            Query(quantile(share, "model_feedback_delay_seconds", OWN, "", "1h"), name)
            for share, name in ((0.5, "median"), (0.9, "90 %"))
        ),
        width=6,
    ),
    chart(
        "Not recorded",
        "Predictions that were not recorded; they cannot be labelled.",
        "ops",
        Query(rate("feedback_unrecorded_total", OWN, "reason"), "{{reason}}"),
        width=6,
    ),
)

SERVING = section(
    "Serving",
    chart(
        "What serves where",
        "Model and digest on every replica, and the number of workers that serve it.",
        "short",
        Query(f"sum by (instance, tag, sha256) (model_info{{{OF}}}) > 0", "workers"),
        kind="table",
        width=12,
    ),
    chart(
        "What served when",
        "The model that each replica served; the value is the number of its workers.",
        "short",
        Query(f"sum by (instance, tag) (model_info{{{OF}}}) > 0", "{{instance}} {{tag}}"),
        kind="statetimeline",
        width=12,
        base="blue",
    ),
    chart(
        "Swaps",
        "Swaps by result and last step; SwapFailing fires when they fail.",
        "short",
        Query(
            "sum by (result, step) " f"(increase(model_swaps_total{{{OWN}}}[{RATE}]))",
            "{{result}} {{step}}",
        ),
        width=12,
    ),
    chart(
        "Desired model, by replica",
        "Replicas that do not serve the desired model; ReplicasDisagree fires if it lasts.",
        "short",
        Query(f"{largest('model_wanted_mismatch', OWN, 'instance')} > bool 0", "{{instance}}"),
        kind="statetimeline",
        width=12,
        thresholds=(Threshold(1, "red"),),
        texts=("desired", "another"),
    ),
)
