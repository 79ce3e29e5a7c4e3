"""The dashboard "Training": cost and result of pipelines, and the expiry of tokens."""

from monitoring.dashboards.definition import MODEL as OF
from monitoring.dashboards.definition import Dashboard, Query, Threshold, chart, section, stat
from monitoring.dashboards.model import RELEASES
from monitoring.objectives import EXPIRY_DAYS, seconds

DAY = seconds("1d")
AGE = "time() - max(conveyor_training_finished_timestamp_seconds)"
GPU_MINUTES = "jobs_gpu_minutes"
TAKEN = f"{GPU_MINUTES}_used + {GPU_MINUTES}_held"
TOKENS = "min by (token) (conveyor_token_expires_timestamp_seconds) - time()"
CERTIFICATES = "min by (instance) (probe_ssl_earliest_cert_expiry) - time()"
EXPIRES = (Threshold(EXPIRY_DAYS * DAY, "orange"), Threshold(30 * DAY, "green"))  # red before

NOW = section(
    "The last training",
    stat(
        "Age",
        "Time since a model was trained.",
        "s",
        Query(AGE, "ago"),
        (Threshold(30 * DAY, "orange"), Threshold(90 * DAY, "red")),
    ),
    stat(
        "Accuracy",
        "Accuracy on the test images.",
        "percentunit",
        Query("max(conveyor_training_accuracy)", "test images"),
    ),
    stat(
        "Duration",
        "Seconds in the training loop.",
        "s",
        Query("max(conveyor_training_seconds)", "loop"),
    ),
    stat(
        "Epochs",
        "Trained epochs; fewer than in params.yaml mean an early stop.",
        "short",
        Query("max(conveyor_training_epochs)", "epochs"),
    ),
    stat(
        "Next token expires in",
        "Without its token a pipeline cannot push; TokenExpiring warns.",
        "s",
        Query(f"min({TOKENS})", "first"),
        EXPIRES,
        "red",
    ),
    stat(
        "Silent for",
        "Time since the last pipeline reported anything.",
        "s",
        Query('time() - max(push_time_seconds{job="conveyor"})', "ago"),
    ),
)

PIPELINES = section(
    "Pipelines",
    chart(
        "Duration of pipelines",
        "From the creation of a pipeline to its report, with the wait for a runner.",
        "s",
        Query("max by (pipeline) (conveyor_pipeline_seconds)", "{{pipeline}}"),
        width=12,
    ),
    chart(
        "Accuracy in training and in production",
        "Accuracy on the test images, live accuracy, and the floor of the gate.",
        "percentunit",
        Query("max(conveyor_training_accuracy)", "trained"),
        Query(f"max by (tag) (model_live_accuracy{{{OF}}})", "live {{tag}}"),
        Query(f"max(model_accuracy_floor{{{OF}}})", "floor", "limit"),
        width=12,
        minimum=None,
        maximum=1,
    ),
    chart(
        "Seconds in training",
        "Of the training loop alone.",
        "s",
        Query("max(conveyor_training_seconds)", "training"),
    ),
    chart(
        "GPU use in training",
        "Mean use of the busiest GPU; when it is low, the GPU waits for data.",
        "percentunit",
        Query("max(conveyor_training_gpu_utilization_ratio)", "GPU"),
        maximum=1,
        needs="gpu",
    ),
    chart(
        "GPU memory in training",
        "Peak memory of a GPU.",
        "bytes",
        Query("max(conveyor_training_gpu_memory_bytes)", "GPU"),
        needs="gpu",
    ),
)

BUDGET = section(
    "GPU minutes",
    chart(
        "Budget taken",
        "Used, and held by jobs that have not ended; over 1 a job is refused or needs a reason.",
        "percentunit",
        Query(
            f"max by (scope, name) (({TAKEN}) / {GPU_MINUTES}_limit)",
            "{{scope}} {{name}}",
        ),
        kind="bargauge",
        width=12,
        thresholds=(Threshold(0.8, "orange"), Threshold(1, "red")),
        needs="jobs",
    ),
    chart(
        "GPU minutes used",
        "In this month (UTC) by all and by each person, and by each merge request since it began.",
        "short",
        Query(f"max by (scope, name) ({GPU_MINUTES}_used)", "{{scope}} {{name}}"),
        width=12,
        needs="jobs",
    ),
)

EXPIRY = section(
    "Expiry",
    chart(
        "Tokens expire in",
        "`make gitlab-setup APPLY=1` renews those of the bots.",
        "s",
        Query(TOKENS, "{{token}}"),
        kind="bargauge",
        width=12,
        thresholds=EXPIRES,
        base="red",
    ),
    chart(
        "Certificates expire in",
        "Read by the probe at each address; CertificateExpiring warns.",
        "s",
        Query(CERTIFICATES, "{{instance}}"),
        kind="bargauge",
        width=12,
        thresholds=EXPIRES,
        base="red",
        needs="probe",
    ),
)

TRAINING = Dashboard(
    name="training",
    title="Training",
    description="Cost and result of pipelines, and the expiry of tokens and certificates.",
    variables=("namespace", "tag"),
    sections=(NOW, PIPELINES, BUDGET, EXPIRY),
    annotations=(RELEASES,),
)
