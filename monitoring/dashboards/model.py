"""The dashboard "Model": what the model answers, whether its inputs drift, whether it is right."""

from monitoring.dashboards.definition import MODEL as OF
from monitoring.dashboards.definition import (
    NAMESPACE,
    Annotation,
    Dashboard,
    Panel,
    Query,
    Section,
    Threshold,
    stat,
)
from monitoring.dashboards.feedback import SERVING, TRUTH
from monitoring.dashboards.promql import largest, mean, or_zero, rate

DRIFTS = (Threshold(0.8, "orange"), Threshold(1, "red"))
RATIO = f"model_drift_score{{{OF}}} / model_drift_threshold{{{OF}}}"
"""How far a signal has drifted: above 1 the alert ModelDrift begins."""
LAST_RATIO = RATIO.replace("}", "} @ end()")
"""At the end of what is shown, so that the lines are those of the same signals all along."""
HOUR = f"increase(model_predictions_total{{{OF}}}[1h])"
UNMEASURED = largest("model_drift_insufficient", OF, "tag, signal, reason")
SAMPLES = largest("model_drift_samples", OF, "tag, signal")


def statistic(name: str, title: str, description: str, unit: str = "short") -> Panel:
    """What one statistic of the images is, a line a band."""
    expr = mean("model_input", f'{OF},statistic="{name}"', "band")
    return Panel(title, description, "timeseries", unit, (Query(expr, "{{band}}"),))


NOW = Section(
    "Now",
    (
        stat(
            "Mean confidence",
            "How sure the model is of its answers on average; a fall means unfamiliar images.",
            "percentunit",
            Query(mean("model_confidence", OF), "confidence"),
        ),
        stat(
            "Strongest drift",
            "The score of the signal that drifted most, over its threshold; above 1 is drift.",
            "short",
            Query(f"max({RATIO})", "score / threshold"),
            DRIFTS,
        ),
        stat(
            "Signals not measured",
            "How many signals have too little to be compared; the table under Drift says why.",
            "short",
            Query(
                or_zero(f"count({largest('model_drift_insufficient', OF, 'tag, signal')})"), "now"
            ),
            (Threshold(1, "orange"),),
        ),
        stat(
            "Live accuracy",
            "Share of the answered predictions that people found right.",
            "percentunit",
            Query(largest("model_live_accuracy", OF, "tag"), "{{tag}}"),
        ),
        stat(
            "Answers",
            "Predictions in the window that somebody answered; few make a wide interval.",
            "short",
            Query(largest("model_feedback_answers", OF, "tag"), "{{tag}}"),
        ),
        stat(
            "Serves what is wanted",
            "Whether all replicas serve the model that is wanted.",
            "short",
            Query(f"{largest('model_wanted_mismatch', NAMESPACE)} > bool 0", "now"),
            (Threshold(1, "red"),),
            texts=("yes", "no"),
        ),
    ),
)

ANSWERS = Section(
    "What it answers",
    (
        Panel(
            "Mean confidence, and that of the reference",
            "Mean score of the answers beside that of the test images; far below, it guesses.",
            "timeseries",
            "percentunit",
            (
                Query(mean("model_confidence", OF, "tag"), "{{tag}}"),
                Query(
                    largest("model_reference_confidence", OF, "tag"), "reference {{tag}}", "dashed"
                ),
            ),
            width=12,
            maximum=1,
        ),
        Panel(
            "Distribution of confidence",
            "How many answers came with which confidence; a second band is a new kind of image.",
            "heatmap",
            "percentunit",
            (Query(rate("model_confidence_bucket", OF, "le"), "{{le}}"),),
            width=12,
        ),
        Panel(
            "Entropy",
            "How undecided the model is: at 0 it knows one class only, at 1 all are alike to it.",
            "timeseries",
            "percentunit",
            (Query(mean("model_entropy", OF, "tag"), "{{tag}}"),),
            height=8,
            maximum=1,
        ),
        Panel(
            "Predictions by class",
            "Answers of each class; one that vanishes raises ClassVanished.",
            "timeseries",
            "ops",
            (Query(rate("model_predictions_total", OF, "class"), "{{class}}"),),
            height=8,
            stacked=True,
        ),
        Panel(
            "Share of each class in the last hour",
            "Which share of the answers each class has, beside its share of the test images.",
            "table",
            "percentunit",
            (
                Query(f"sum by (class) ({HOUR}) / scalar(sum({HOUR}))", "share"),
                Query(largest("model_reference_class_share", OF, "class"), "reference"),
            ),
            height=8,
        ),
    ),
)

DRIFT = Section(
    "Drift",
    (
        Panel(
            "Drift of each signal",
            "Score over threshold by the worse measure; red signals raise ModelDrift.",
            "statetimeline",
            "short",
            (Query(f"max by (signal) ({RATIO})", "{{signal}}"),),
            width=24,
            height=10,
            thresholds=DRIFTS,
        ),
        Panel(
            "The five that drift most",
            "Score over threshold of the strongest signals: how long the way to 1 still is.",
            "timeseries",
            "short",
            (
                Query(
                    f"max by (signal, measure) ({RATIO}) and "
                    f"topk(5, max by (signal, measure) ({LAST_RATIO}))",
                    "{{signal}} ({{measure}})",
                ),
            ),
            width=12,
            thresholds=DRIFTS,
        ),
        Panel(
            "Signals that can not be measured",
            "Why a signal has no score, and how many samples its window holds.",
            "table",
            "short",
            (
                Query(
                    f"({UNMEASURED} * 0 + on (tag, signal) group_left () {SAMPLES}) "
                    f"or {UNMEASURED} * 0",
                    "samples",
                ),
            ),
            width=12,
        ),
    ),
)

INPUTS = Section(
    "The images",
    (
        statistic("mean", "Mean", "Mean of the pixels of each band; season and sensor move it."),
        statistic("std", "Spread", "Standard deviation of the pixels of each band."),
        statistic("roughness", "Roughness", "How much neighbours differ; blur lowers it."),
        statistic("nodata", "No data", "Share of pixels without a measurement.", "percentunit"),
        statistic(
            "saturated",
            "Saturated",
            "Share of pixels at the top: clouds, snow, or another scale.",
            "percentunit",
        ),
        Panel(
            "Not finite",
            "Statistics that were NaN or infinite: somebody sends broken images.",
            "timeseries",
            "ops",
            (Query(rate("model_inputs_not_finite_total", OF, "tag"), "{{tag}}"),),
        ),
    ),
)

SWAPS = Annotation(
    "Swaps",
    f"sum by (result) (increase(model_swaps_total{{{NAMESPACE}}}[2m])) > 0",
    "Swap: {{result}}",
    "blue",
)
# What was replaced stays at 0: going back to it is a release as well.
RELEASES = Annotation(
    "Releases",
    f"count by (tag) (model_info{{{NAMESPACE}}} > 0) "
    f"unless count by (tag) (model_info{{{NAMESPACE}}} offset 5m > 0)",
    "Serves now: {{tag}}",
    "green",
)

MODEL = Dashboard(
    name="model",
    title="Model",
    description="What the model answers, whether its inputs drift, and whether it is right.",
    variables=("namespace", "tag"),
    sections=(NOW, ANSWERS, DRIFT, INPUTS, TRUTH, SERVING),
    annotations=(SWAPS, RELEASES),
)
