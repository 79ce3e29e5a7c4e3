"""The desired state of a GitLab project, as tables; `delivery.gitlab_setup` applies it.

There are two tokens because two kinds of pipelines push. Code on a branch can read every variable
that is not protected, so the token of merge requests is only a developer; another one, available
only to pipelines of `main` and of the registry's tags, tags releases.
"""

from typing import NamedTuple

NO_ONE, DEVELOPER, MAINTAINER = 0, 30, 40
ROLES = {
    NO_ONE: "no one",
    10: "guests",
    20: "reporters",
    DEVELOPER: "developers",
    MAINTAINER: "maintainers",
    50: "owners",
}

OLDEST = (17, 2)
"""The oldest supported GitLab; the set-up reports the features that older ones lack."""

SINCE = (
    ((16, 0), "tokens cannot be renewed: revoke them by hand before they expire"),
    ((17, 4), "variables cannot be hidden: the bots' tokens are masked only"),
    (
        (17, 10),
        "the cluster agent cannot be restricted to protected branches (protected_branches_only)",
    ),
)
"""Features that are missing before a version."""


class Setting(NamedTuple):
    """A setting of the project, by its name in the API."""

    field: str
    value: bool | str
    why: str
    since: str = ""
    """The GitLab that introduced it, if supported ones may lack it."""
    also: tuple[str, ...] = ()
    """Other accepted values, which are not changed."""


class Protection(NamedTuple):
    """Protection of a branch, of tags or of an environment: verb -> role."""

    kind: str
    name: str
    levels: dict[str, int]
    why: str


class Variable(NamedTuple):
    """A variable of the pipelines. Its value comes from the file of values, never from a shell."""

    key: str
    about: str
    scope: str = "*"
    secret: bool = False
    protected: bool = False
    file: bool = False
    """The value is the content of the named file; a job gets the path of a copy."""
    needed: bool = False

    @property
    def source(self) -> str:
        """Its key in the file of values: `SMOKE_TOKEN_STAGING` for the environment `staging`."""
        return self.key if self.scope == "*" else f"{self.key}_{self.scope.upper()}"


class BotToken(NamedTuple):
    """A project access token, kept in the variable of the same row."""

    variable: str
    name: str
    role: int
    scopes: tuple[str, ...]
    why: str


TOKEN_DAYS, RENEW_DAYS = 180, 30
"""Life time of a token, and the time before its end at which it is renewed; days."""

MERGE_MESSAGE = """Merge branch '%{source_branch}' into '%{target_branch}'

%{title}

%{issues}

See merge request %{reference}

%{approved_by}"""

PREMIUM = "Premium"
SETTINGS = (
    Setting(
        "only_allow_merge_if_pipeline_succeeds",
        True,
        "a closed gate blocks the merge",
    ),
    Setting(
        "allow_merge_on_skipped_pipeline",
        False,
        "a push that skips its pipeline, by anybody, is not judged and cannot be merged",
    ),
    Setting(
        "merge_method",
        "merge",
        "the merge commit names merge request and approvals",
        also=("rebase_merge",),
    ),
    Setting(
        "merge_pipelines_enabled",
        False,
        "pipelines of merged results run on a commit of GitLab, which the bot cannot commit to",
        PREMIUM,
    ),
    Setting("squash_option", "never", "the commit that was trained stays in the history"),
    Setting("merge_commit_template", MERGE_MESSAGE, "`make lineage` reads it"),
    Setting("remove_source_branch_after_merge", True, "a merged experiment leaves its tag"),
    Setting("auto_cancel_pending_pipelines", "enabled", "a newer push ends the older pipeline"),
    Setting("ci_forward_deployment_enabled", True, "an older pipeline does not deploy last"),
    Setting(
        "ci_forward_deployment_rollback_allowed",
        False,
        "a retried job of an old pipeline does not deploy; `make rollback` does",
        "15.6",
    ),
    Setting("ci_separated_caches", True, "a branch cannot poison the cache of main", "15.0"),
    Setting(
        "ci_allow_fork_pipelines_to_run_in_parent_project",
        False,
        "code from a fork never sees the project's variables; a member takes the branch over",
        "14.8",
    ),
    Setting(
        "ci_push_repository_for_job_token_allowed",
        False,
        "a job on a branch does not push with the rights of whoever started it",
        "17.2",
    ),
    Setting(
        "ci_pipeline_variables_minimum_override_role",
        "maintainer",
        "who may start a pipeline may not change its variables",
        "17.1",
        also=("owner", "no_one_allowed"),
    ),
    Setting("container_registry_access_level", "enabled", "the images go there", also=("private",)),
    Setting("public_jobs", False, "logs and artifacts are for members"),
)

PROCESS_MODE = "oldest_first"
"""Of the resource groups of the stages; GitLab's default lets a newer pipeline go first."""

PUSH_RULES = {
    "commit_message_regex": "the bots' messages may not match it: `Experiment of merge request 7`",
    "branch_name_regex": "the branch `retrain` may not match it",
    "reject_unsigned_commits": "the bots do not sign their commits",
    "deny_delete_tag": "`make retention` and `make acceptance-gitlab` cannot delete tags",
}
"""Push rules -> what they refuse. The bot commits as the user of its token, whom GitLab knows."""

KEPT_IMAGES = r"v\d+\.\d+\.\d+(-[0-9a-f]+)?|cpu|cuda"
"""Tags of the registry that a cleanup policy keeps (`name_regex_keep`): released images, and those
of jobs. All images are "created" in 1980, so that a policy by age or number would delete them."""
MADE_BY_JOBS = {"JOB_IMAGE": "job-image", "TRAIN_IMAGE": "job-image-cuda"}
"""Variables that name images -> the job of main that makes such an image."""

PROTECTIONS = (
    Protection(
        "branch",
        "main",
        {"push": NO_ONE, "merge": MAINTAINER},
        "main changes by merge requests only",
    ),
    # experiment/* is not protected: developers' pipelines create these tags, and the pipeline of
    # a protected tag gets the protected variables.
    Protection(
        "tag", "{model}@*", {"create": MAINTAINER}, "a version is registered by main, and stays"
    ),
    Protection("tag", "{model}#*", {"create": MAINTAINER}, "such a tag rolls a version out"),
    Protection("environment", "staging", {"deploy": MAINTAINER}, "main and tags deploy"),
    Protection("environment", "production", {"deploy": MAINTAINER}, "main and tags deploy"),
)

VARIABLES = (
    Variable("TRAIN_RUNNER_TAG", "Tag of the runners that train; `gpu` when not set."),
    Variable("JOB_IMAGE", "Image in which jobs of merge requests install nothing."),
    Variable("TRAIN_IMAGE", "The same for the job that trains."),
    Variable(
        "BOT_TOKEN",
        "Merge-request pipelines push the trained commit and write the report with it.",
        secret=True,
    ),
    Variable(
        "RELEASE_TOKEN", "Main's pipelines tag releases with it.", secret=True, protected=True
    ),
    Variable("NOTIFY_URL", "Slack-compatible webhook for notifications.", secret=True),
    Variable("NOTIFY_EVENTS", "Which events are sent, with commas between; all when not set."),
    Variable(
        "KUBE_CONTEXT",
        "`path/of/agent-project:agent-name` of the cluster agent.",
        protected=True,
        needed=True,
    ),
    Variable("STAGING_URL", "Address of the service of staging.", needed=True),
    Variable("PRODUCTION_URL", "Address of the service of production.", needed=True),
    Variable("SERVICE_AUDIENCE", "Audience of the OIDC tokens that jobs show to the service."),
    Variable(
        "SMOKE_TOKEN",
        "Key of the service with the role `predict`, for the smoke test.",
        scope="staging",
        secret=True,
        protected=True,
    ),
    Variable(
        "SMOKE_TOKEN",
        "Key of the service with the role `predict`, for the smoke test.",
        scope="production",
        secret=True,
        protected=True,
    ),
    Variable(
        "FEEDBACK_KEY",
        "Key of the service with the role `label`, for `feedback` in ci/ingest.txt.",
        secret=True,
        protected=True,
    ),
    Variable(
        "PUSHGATEWAY_URL",
        "Address to which pipelines push metrics; none are pushed when not set.",
        secret=True,
    ),
    Variable(
        "PROMETHEUS_URL",
        "Prometheus, which a rollout asks whether it scrapes the stage; it does not when not set.",
        secret=True,
        protected=True,
    ),
    Variable("PAGES", "`1`: main publishes docs, experiments and plots on GitLab Pages."),
    Variable("PRODUCTION", "`manual`: production waits for a person; by itself when not set."),
    Variable(
        "REVIEW_URL",
        "Address of review apps, `https://mr-{iid}.review.example.com`; none when not set.",
    ),
    Variable(
        "REVIEW_KUBE_CONTEXT", "Context of the review apps' own agent; every branch may use it."
    ),
    Variable("REVIEW_IMAGE", "`name@sha256:...` for review apps; staging's when not set."),
    Variable("AWS_ROLE_ARN", "Role that jobs take by OIDC, for a DVC remote on S3."),
    Variable("AWS_DEFAULT_REGION", "Region of the DVC remote on S3."),
    Variable("AWS_ACCESS_KEY_ID", "Key for S3 where OIDC is not available.", secret=True),
    Variable("AWS_SECRET_ACCESS_KEY", "Its secret.", secret=True),
    Variable(
        "GDRIVE_CREDENTIALS_FILE",
        "Key file of the service account, for a DVC remote on Google Drive.",
        file=True,
    ),
    Variable(
        "PRIVATE_CA_FILE", "CAs of your own, in PEM, for S3, registry and mirrors.", file=True
    ),
    Variable(
        "IMAGE_PREFIX", "Mirror of Docker Hub, with a slash at its end; docker.io/ when not set."
    ),
    Variable(
        "BUILD_RUNNER_TAG", "Tag of the runners that may build images; untagged jobs' when not set."
    ),
    Variable("BUILDKIT_HOST", "Address of a BuildKit that builds the images instead of buildah."),
    Variable("KUBECTL_MIRROR", "Mirror of kubectl's downloads."),
    Variable("TRIVY_MIRROR", "Mirror of trivy's downloads."),
    Variable("BUILDKIT_MIRROR", "Mirror of BuildKit's downloads."),
)

RETIRED = ("REAP_TOKEN", "REAP_HOURS")
"""Variables of earlier versions. A file of values may still have them; they are ignored."""

STORAGE = ("AWS_ROLE_ARN", "AWS_ACCESS_KEY_ID", "GDRIVE_CREDENTIALS_FILE")
"""Each of these gives access to the DVC remote."""

TOKENS = (
    BotToken(
        "BOT_TOKEN",
        "conveyor-bot",
        DEVELOPER,
        ("api", "write_repository"),
        "pushes to branches, comments, opens merge requests; no more than a developer",
    ),
    BotToken(
        "RELEASE_TOKEN",
        "conveyor-release",
        MAINTAINER,
        ("write_repository",),
        "makes the protected tags; seen by pipelines of main and of these tags only",
    ),
)

RUNNER_TAG = "gpu"

LABELS = ({"name": "retrain", "color": "#6699cc", "description": "Proposed by `make retrain`"},)


class Schedule(NamedTuple):
    """A scheduled pipeline. The team decides later whether and when it runs."""

    task: str
    """Value of its variable TASK, which the jobs' rules test."""
    cron: str
    why: str


SCHEDULES = (
    Schedule("retrain", "0 3 * * 1", "trains on new data, and proposes the model"),
    Schedule("retention", "0 5 1 * *", "deletes the tags of experiments older than 90 days"),
    Schedule("audit", "0 4 * * 1", "looks for known holes in what is installed"),
)

TRIGGER = {"description": "drift alert"}
