"""The dashboard "Model": outputs, drift of the inputs, accuracy, and the models that serve."""

from monitoring.dashboards.definition import MODEL as OF
from monitoring.dashboards.definition import (
    OWN,
    Annotation,
    Dashboard,
    Panel,
    Query,
    Threshold,
    chart,
    section,
    stat,
)
from monitoring.dashboards.feedback import LABELS, SERVING
from monitoring.dashboards.promql import largest, mean, or_zero, rate

DRIFTS = (Threshold(0.8, "orange"), Threshold(1, "red"))
RATIO = f"model_drift_score{{{OF}}} / model_drift_threshold{{{OF}}}"
"""Drift of a signal: above 1 the alert ModelDrift becomes pending."""
LAST_RATIO = RATIO.replace("}", "} @ end()")
"""At the end of the time range, so that a line does not change its signal."""
HOUR = f"increase(model_predictions_total{{{OF}}}[1h])"
UNMEASURED = largest("model_drift_insufficient", OF, "tag, signal, reason")
SAMPLES = largest("model_drift_samples", OF, "tag, signal")


def statistic(name: str, title: str, description: str, unit: str = "short") -> Panel:
    """One statistic of the images, a line per band."""
    expr = mean("model_input", f'{OF},statistic="{name}"', "band")
    return chart(title, description, unit, Query(expr, "{{band}}"))


NOW = section(
    "Now",
    stat(
        "Mean confidence",
        "Mean probability of the predicted class; a fall means unfamiliar images.",
        "percentunit",
        Query(mean("model_confidence", OF), "confidence"),
    ),
    stat(
        "Strongest drift",
        "The largest ratio of a score to its threshold; above 1 is drift.",
        "short",
        Query(f"max({RATIO})", "score / threshold"),
        DRIFTS,
    ),
    stat(
        "Signals not measured",
        "Signals whose drift cannot be computed; the table under Drift has the reasons.",
        "short",
        Query(or_zero(f"count({largest('model_drift_insufficient', OF, 'tag, signal')})"), "now"),
        (Threshold(1, "orange"),),
    ),
    stat(
        "Live accuracy",
        "Share of the labelled predictions that were right.",
        "percentunit",
        Query(largest("model_live_accuracy", OF, "tag"), "{{tag}}"),
    ),
    stat(
        "Labels",
        "Labelled predictions in the window; few give a wide interval.",
        "short",
        Query(largest("model_feedback_answers", OF, "tag"), "{{tag}}"),
    ),
    stat(
        "Serves the desired model",
        "Whether all replicas serve the desired model.",
        "short",
        Query(f"{largest('model_wanted_mismatch', OWN)} > bool 0", "now"),
        (Threshold(1, "red"),),
        texts=("yes", "no"),
    ),
)

ANSWERS = section(
    "Predictions",
    chart(
        "Mean confidence, and that of the reference",
        "Mean confidence beside that of the test images; far below it, the model guesses.",
        "percentunit",
        Query(mean("model_confidence", OF, "tag"), "{{tag}}"),
        Query(largest("model_reference_confidence", OF, "tag"), "reference {{tag}}", "dashed"),
        width=12,
        maximum=1,
    ),
    chart(
        "Distribution of confidence",
        "Predictions by confidence; a second band means a new kind of image.",
        "percentunit",
        Query(rate("model_confidence_bucket", OF, "le"), "{{le}}"),
        kind="heatmap",
        width=12,
    ),
    chart(
        "Entropy",
        "Normalised entropy: 0 is one certain class, 1 is all classes alike.",
        "percentunit",
        Query(mean("model_entropy", OF, "tag"), "{{tag}}"),
        height=8,
        maximum=1,
    ),
    chart(
        "Predictions by class",
        "Predictions of each class; ClassVanished fires when one disappears.",
        "ops",
        Query(rate("model_predictions_total", OF, "class"), "{{class}}"),
        height=8,
        stacked=True,
    ),
    chart(
        "Share of each class in the last hour",
        "Share of each class among the predictions and among the test images.",
        "percentunit",
        Query(f"sum by (class) ({HOUR}) / scalar(sum({HOUR}))", "share"),
        Query(largest("model_reference_class_share", OF, "class"), "reference"),
        kind="table",
        height=8,
    ),
)

DRIFT = section(
    "Drift",
    chart(
        "Drift of each signal",
        "Score divided by threshold, by the worse measure; ModelDrift fires at red.",
        "short",
        Query(f"max by (signal) ({RATIO})", "{{signal}}"),
        kind="statetimeline",
        width=24,
        height=10,
        thresholds=DRIFTS,
    ),
    chart(
        "The five that drift most",
        "Score divided by threshold of the strongest signals; 1 is drift.",
        "short",
        Query(
            f"max by (signal, measure) ({RATIO}) and "
            f"topk(5, max by (signal, measure) ({LAST_RATIO}))",
            "{{signal}} ({{measure}})",
        ),
        width=12,
        thresholds=DRIFTS,
    ),
    chart(
        "Signals that cannot be measured",
        "Why a signal has no score, and the samples in its window.",
        "short",
        Query(
            f"({UNMEASURED} * 0 + on (tag, signal) group_left () {SAMPLES}) "
            f"or {UNMEASURED} * 0",
            "samples",
        ),
        kind="table",
        width=12,
    ),
)

INPUTS = section(
    "The images",
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
    chart(
        "Not finite",
        "Statistics that were NaN or infinite: a client sends broken images.",
        "ops",
        Query(rate("model_inputs_not_finite_total", OF, "tag"), "{{tag}}"),
    ),
)

ROUTING = section(
    "Traffic by rules",
    chart(
        "Shares of the arms",
        "Share of the requests that each arm of routing.yaml gets; ArmCutOff fires at a cut.",
        "percentunit",
        Query(largest("routing_share", OWN, "rule, arm"), "{{arm}}"),
        Query(largest("routing_cut", OWN, "rule, arm"), "cut off {{arm}}", "dashed"),
        maximum=1,
        needs="routing",
    ),
    chart(
        "Probability of being the best",
        "By the labels of each arm; at 0.95 PromotionProposed fires.",
        "percentunit",
        Query(largest("routing_best", OWN, "rule, arm"), "{{arm}}"),
        maximum=1,
        needs="routing",
    ),
    chart(
        "Copies for the shadow",
        "Copies by what came of them: equal or different class, failed, dropped.",
        "ops",
        Query(rate("routing_shadow_copies_total", OWN, "result"), "{{result}}"),
        stacked=True,
        needs="shadow",
    ),
)

SWAPS = Annotation(
    "Swaps",
    f"sum by (result) (increase(model_swaps_total{{{OWN}}}[2m])) > 0",
    "Swap: {{result}}",
    "blue",
)
# A replaced model stays at 0, so that a rollback to it is marked as well.
RELEASES = Annotation(
    "Releases",
    f"count by (tag) (model_info{{{OWN}}} > 0) "
    f"unless count by (tag) (model_info{{{OWN}}} offset 5m > 0)",
    "Serves now: {{tag}}",
    "green",
)

MODEL = Dashboard(
    name="model",
    title="Model",
    description="Predictions of the model, drift of its inputs, and its accuracy.",
    variables=("namespace", "tag"),
    sections=(NOW, ANSWERS, DRIFT, INPUTS, LABELS, SERVING, ROUTING),
    annotations=(SWAPS, RELEASES),
)
