"""The set-up of a GitLab project, against a fake of its API on loopback."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml

from delivery import gitlab_setup
from delivery.gitlab import address, desired
from delivery.gitlab.variables import read_values
from tests.conftest import ROOT, run
from tests.fakes.gitlab.server import NUMBER, PATH, FakeGitLab, serving
from tests.make import ci

DOCUMENT = ROOT / "docs" / "gitlab-setup.md"

# What a team gives: every variable but the tokens, which the set-up makes.
VALUES = """\
NOTIFY_URL=https://chat.example.com/hooks/secret-of-the-channel
NOTIFY_EVENTS=released,rolled-back
KUBE_CONTEXT=team/agents:cluster
STAGING_URL=https://staging.example.com
PRODUCTION_URL=https://production.example.com
SMOKE_TOKEN_STAGING=key-of-staging
SMOKE_TOKEN_PRODUCTION=key-of-production
AWS_ROLE_ARN=arn:aws:iam::123456789012:role/landcover
AWS_DEFAULT_REGION=eu-central-1
GDRIVE_CREDENTIALS_FILE=key.json
"""

Run = Callable[..., str]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeGitLab]:
    with serving() as fake:
        fake.runners = [{"id": 5, "tag_list": ["gpu"], "online": True, "status": "online"}]
        yield fake


@pytest.fixture
def setup(
    api: FakeGitLab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run the command in a project, as a maintainer; returns what it printed."""
    (tmp_path / "params.yaml").write_text("model:\n  name: landcover\n")
    (tmp_path / "key.json").write_text('{"type": "service_account"}')
    (tmp_path / "values.env").write_text(VALUES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITLAB_TOKEN", api.admit(user="ana"))

    def command(*words: str) -> str:
        where = ["--url", api.url, "--project", PATH]
        monkeypatch.setattr(sys, "argv", ["gitlab_setup", *where, *words])
        gitlab_setup.main()
        return capsys.readouterr().out

    return command


def refused(setup: Run, *words: str) -> str:
    """The one line with which the command ends."""
    with pytest.raises(SystemExit) as ended:
        setup(*words)
    assert isinstance(ended.value.code, str)
    assert ended.value.code.startswith("error: ") and "\n" not in ended.value.code
    return ended.value.code


def test_without_apply_nothing_is_changed(api: FakeGitLab, setup: Run) -> None:
    printed = setup("--values", "values.env")
    assert api.changes() == []
    assert "~ setting only_allow_merge_if_pipeline_succeeds: off -> on" in printed
    assert "+ protected tag landcover@*: create: maintainers" in printed
    assert (
        "~ protected branch main: push: maintainers, merge: maintainers -> push: no one" in printed
    )
    assert "Nothing was changed" in printed


def test_apply_makes_the_project_match_the_tables(api: FakeGitLab, setup: Run) -> None:
    setup("--apply", "--values", "values.env")
    for row in (row for row in desired.SETTINGS if row.since != desired.PREMIUM):
        assert api.project[row.field] == row.value
    assert api.job_token_scope["inbound_enabled"] is True
    main = next(row for row in api.protected_branches if row["name"] == "main")
    assert [row["access_level"] for row in main["push_access_levels"]] == [0]
    assert [row["access_level"] for row in main["merge_access_levels"]] == [40]
    assert {row["name"] for row in api.protected_tags} == {"landcover@*", "landcover#*"}
    assert {row["name"] for row in api.protected_environments} == {"staging", "production"}
    assert [row["description"] for row in api.triggers] == ["drift alert"]
    assert [label["name"] for label in api.labels] == ["retrain"]


def test_applying_twice_changes_nothing_the_second_time(api: FakeGitLab, setup: Run) -> None:
    setup("--apply", "--values", "values.env")
    before = len(api.changes())
    printed = setup("--apply", "--values", "values.env")
    assert len(api.changes()) == before
    assert "Nothing to do" in printed and "done:" not in printed


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, desired.KEPT_IMAGES),
        ("main|latest", f"main|latest|{desired.KEPT_IMAGES}"),
        ("v[0-9.]+", f"v[0-9.]+|{desired.KEPT_IMAGES}"),  # without the tags that name a commit
        (r"v[\d.]+\z", rf"v[\d.]+\z|{desired.KEPT_IMAGES}"),  # RE2, which Python cannot read
        ("v.*", f"v.*|{desired.KEPT_IMAGES}"),  # without those of jobs
        ("v.*|c.*", "v.*|c.*"),
        (".*", ".*"),
    ],
)
def test_a_cleanup_policy_of_the_registry_keeps_released_images(
    api: FakeGitLab, setup: Run, before: str | None, after: str
) -> None:
    policy = {"enabled": True, "older_than": "90d", "keep_n": 10, "name_regex_keep": before}
    api.project["container_expiration_policy"] = policy
    printed = setup("--apply", "--values", "values.env")
    found = api.project["container_expiration_policy"]
    assert found == policy | {"name_regex_keep": after}
    assert ("~ cleanup policy container_expiration_policy: (on) keeps " in printed) == (
        before != after
    )


def test_a_second_run_without_the_values_leaves_them_alone(api: FakeGitLab, setup: Run) -> None:
    setup("--apply", "--values", "values.env")
    before = len(api.changes())
    assert "Nothing to do" in setup("--apply")
    assert len(api.changes()) == before


def test_a_run_that_broke_off_is_finished_by_the_next(api: FakeGitLab, setup: Run) -> None:
    api.broken[("POST", "protected_tags")] = (500, b"{}")
    said = refused(setup, "--apply", "--values", "values.env")
    assert "protected tag landcover@*" in said and "run it again" in said
    api.broken.clear()
    setup("--apply", "--values", "values.env")
    assert "Nothing to do" in setup("--values", "values.env")


def test_a_token_whose_variable_could_not_be_stored_is_renewed(api: FakeGitLab, setup: Run) -> None:
    setup(
        "--apply", "--values", "values.env", "--keep", "conveyor-bot", "--keep", "conveyor-release"
    )
    api.broken[("POST", "variables")] = (500, b"{}")
    refused(setup, "--apply")
    api.broken.clear()
    assert "renewed: its value is lost" in setup("--apply")
    active = [row["name"] for row in api.access_tokens if row["active"]]
    assert sorted(active) == ["conveyor-bot", "conveyor-release"]
    assert api.variable("BOT_TOKEN")["value"] in api.tokens


def test_merge_requests_get_a_token_that_can_neither_release_nor_administer(
    api: FakeGitLab, setup: Run
) -> None:
    setup("--apply", "--values", "values.env")
    bot = api.variable("BOT_TOKEN")
    assert (bot["masked"], bot["hidden"], bot["protected"]) == (True, True, False)
    token = api.tokens[bot["value"]]
    assert token.level == 30  # a developer: no protected tag, no protected branch, no settings
    release = api.variable("RELEASE_TOKEN")
    assert (release["masked"], release["hidden"], release["protected"]) == (True, True, True)
    assert api.tokens[release["value"]].scopes == ("write_repository",)


def test_tags_that_developers_make_are_not_protected(api: FakeGitLab, setup: Run) -> None:
    # The pipeline of a protected tag sees the protected variables.
    setup("--apply")
    assert not [row for row in api.protected_tags if row["name"].startswith("experiment")]


def test_code_from_forks_never_runs_with_the_variables_of_the_project(
    api: FakeGitLab, setup: Run
) -> None:
    setup("--apply")
    assert api.project["ci_allow_fork_pipelines_to_run_in_parent_project"] is False
    assert api.project["ci_push_repository_for_job_token_allowed"] is False


def test_tokens_end_and_are_renewed_before_they_do(api: FakeGitLab, setup: Run) -> None:
    setup("--apply", "--values", "values.env")
    old = api.variable("BOT_TOKEN")["value"]
    row = next(row for row in api.access_tokens if row["name"] == "conveyor-bot")
    assert date.fromisoformat(row["expires_at"]) <= date.today() + timedelta(days=181)
    row["expires_at"] = (date.today() + timedelta(days=10)).isoformat()
    assert "~ token conveyor-bot: renewed: it ends on" in setup("--apply")
    new = api.variable("BOT_TOKEN")["value"]
    assert new != old and new in api.tokens and old not in api.tokens
    assert "Nothing to do" in setup()


def test_a_token_with_other_rights_is_replaced(api: FakeGitLab, setup: Run) -> None:
    setup("--apply", "--values", "values.env")
    row = next(row for row in api.access_tokens if row["name"] == "conveyor-bot")
    row["access_level"] = 40
    assert "~ token conveyor-bot: maintainers, api write_repository -> developers" in setup(
        "--apply"
    )
    assert api.tokens[api.variable("BOT_TOKEN")["value"]].level == 30
    assert row["revoked"] is True


def test_tokens_that_the_team_brings_are_taken(api: FakeGitLab, setup: Run, tmp_path: Path) -> None:
    (tmp_path / "own.env").write_text(f"BOT_TOKEN={'b' * 20}\nRELEASE_TOKEN={'r' * 20}\n")
    setup("--apply", "--values", "own.env")
    assert api.access_tokens == []
    assert api.variable("RELEASE_TOKEN")["protected"] is True
    assert "Nothing to do" in setup("--values", "own.env")


def test_without_project_tokens_the_error_names_the_alternative(
    api: FakeGitLab, setup: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITLAB_TOKEN", api.admit(personal=False))
    said = refused(setup, "--apply", "--values", "values.env")
    assert "token conveyor-bot" in said and "BOT_TOKEN and RELEASE_TOKEN" in said
    assert api.variable("KUBE_CONTEXT")  # tokens come last, so that the rest is done


def test_variables_are_masked_and_protected_according_to_the_table(
    api: FakeGitLab, setup: Run
) -> None:
    setup("--apply", "--values", "values.env")
    made = [token.variable for token in desired.TOKENS]
    for row in desired.VARIABLES:
        if f"\n{row.source}=" not in f"\n{VALUES}" and row.key not in made:
            continue
        stored = api.variable(row.key, row.scope)
        assert stored["masked"] == row.secret and stored["protected"] == row.protected
        assert stored["raw"] is True
    assert api.variable("SMOKE_TOKEN", "staging")["value"] == "key-of-staging"
    assert api.variable("SMOKE_TOKEN", "production")["value"] == "key-of-production"
    file = api.variable("GDRIVE_CREDENTIALS_FILE")
    assert (file["variable_type"], file["value"]) == ("file", '{"type": "service_account"}')


def test_an_image_of_jobs_is_named_once_it_is_in_the_registry(api: FakeGitLab, setup: Run) -> None:
    """With a name that the registry does not know, no job of a merge request could start."""
    name = "registry.example.com/team/landcover/jobs"
    Path("values.env").write_text(
        f"JOB_IMAGE={name}:cpu\nTRAIN_IMAGE={name}:cuda\nIMAGE_PREFIX=docker.io/\n"
    )
    for images in ({}, {"service": ["v1.0.0"]}, {"jobs": ["v1"]}):
        api.images = images
        assert "job job-image of the newest pipeline of main" in setup("--values", "values.env")
    api.images = {"service": [], "jobs": ["cpu"]}
    printed = setup("--apply", "--values", "values.env")
    assert api.variable("JOB_IMAGE")["value"] == f"{name}:cpu"
    assert f"variable TRAIN_IMAGE: {name}:cuda is not in the registry" in printed
    assert "run the job job-image-cuda of" in printed
    assert "TRAIN_IMAGE" not in {row["key"] for row in api.variables}


def test_an_image_of_jobs_in_another_registry_is_taken_as_it_is(
    api: FakeGitLab, setup: Run
) -> None:
    Path("values.env").write_text("JOB_IMAGE=quay.io/team/jobs:7\n")
    setup("--apply", "--values", "values.env")
    assert api.variable("JOB_IMAGE")["value"] == "quay.io/team/jobs:7"


def test_a_variable_is_corrected_only_in_its_own_environment(api: FakeGitLab, setup: Run) -> None:
    setup("--apply", "--values", "values.env")
    api.variable("SMOKE_TOKEN", "production")["protected"] = False
    assert "~ variable SMOKE_TOKEN (production): protected" in setup("--apply")
    assert api.variable("SMOKE_TOKEN", "production")["protected"] is True
    assert api.variable("SMOKE_TOKEN", "production")["value"] == "key-of-production"


def test_flags_are_corrected_without_changing_other_values(api: FakeGitLab, setup: Run) -> None:
    setup("--apply", "--values", "values.env")
    bot, hook = api.variable("RELEASE_TOKEN"), api.variable("NOTIFY_URL")
    values = bot["value"], hook["value"]
    bot["protected"], hook["masked"] = False, False
    setup("--apply")
    assert (bot["protected"], hook["masked"]) == (True, True)
    assert (bot["value"], hook["value"]) == values


def test_a_changed_value_is_applied_and_no_secret_is_printed(
    api: FakeGitLab, setup: Run, tmp_path: Path
) -> None:
    first = setup("--apply", "--values", "values.env")
    (tmp_path / "values.env").write_text(VALUES.replace("secret-of", "other-secret-of"))
    printed = setup("--apply", "--values", "values.env")
    assert "~ variable NOTIFY_URL: value (secret)" in printed
    assert "other-secret" in api.variable("NOTIFY_URL")["value"]
    tokens = [variable["value"] for variable in api.variables if variable["masked"]]
    for text in [first, printed]:
        assert "secret-of" not in text and "service_account" not in text
        assert not [token for token in tokens if token in text]
        assert "https://staging.example.com" in first


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("TRAIN_RUNER_TAG=cpu", "'TRAIN_RUNER_TAG' is not a variable of the pipeline"),
        ("NOTIFY_URL=short", "NOTIFY_URL: GitLab cannot mask it"),
        ("NOTIFY_URL='https://chat.example.com/with space'", "NOTIFY_URL: GitLab cannot mask it"),
        ("GDRIVE_CREDENTIALS_FILE=missing.json", "missing.json cannot be read"),
        ("TRAIN_RUNNER_TAG=gpu\nNOTIFY_URL", "bad.env, line 2: it is no KEY=VALUE: correct it"),
        ("TRAIN_RUNNER_TAG=a\nTRAIN_RUNNER_TAG=b", "line 2: 'TRAIN_RUNNER_TAG' is there twice"),
    ],
)
def test_invalid_values_are_refused_before_any_request(
    api: FakeGitLab, setup: Run, tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "bad.env").write_text(line + "\n")
    assert said in refused(setup, "--apply", "--values", "bad.env")
    assert api.requests == []


def test_variables_of_earlier_versions_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "values.env"
    file.write_text("REAP_TOKEN=glpat-x\nREAP_HOURS=3\nTRAIN_RUNNER_TAG=docker\n")
    assert read_values(file) == {"TRAIN_RUNNER_TAG": "docker"}


def test_a_missing_file_of_values_is_reported(setup: Run) -> None:
    assert "nowhere.env is not a file" in refused(setup, "--values", "nowhere.env")


def test_a_file_of_values_that_is_no_text_is_reported(setup: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.env").write_bytes(b"TRAIN_RUNNER_TAG=\xff\n")
    assert "bad.env cannot be read: 'utf-8' codec" in refused(setup, "--values", "bad.env")


def test_tasks_for_a_person_are_listed(api: FakeGitLab, setup: Run) -> None:
    api.runners = []
    printed = setup("--apply")
    assert "variable KUBE_CONTEXT: give it in the values" in printed
    assert "DVC remote: give one of AWS_ROLE_ARN" in printed
    assert "runner: none has the tag 'gpu'" in printed and "TRAIN_RUNNER_TAG" in printed
    assert (
        "Not set, and not needed: TRAIN_RUNNER_TAG, JOB_IMAGE, TRAIN_IMAGE, NOTIFY_URL" in printed
    )


def test_another_runner_tag_is_looked_for_when_it_is_given(
    api: FakeGitLab, setup: Run, tmp_path: Path
) -> None:
    api.runners = [{"id": 5, "tag_list": ["docker", "linux"], "online": False}]
    (tmp_path / "cpu.env").write_text("TRAIN_RUNNER_TAG=docker\n")
    assert "runner: none with the tag 'docker' is online" in setup("--apply", "--values", "cpu.env")
    assert "runner: none with the tag 'docker' is online" in setup()


def test_without_premium_environments_are_left_and_the_rest_is_done(
    api: FakeGitLab, setup: Run
) -> None:
    api.premium = False
    printed = setup("--apply")
    assert "protected environment production: GitLab Premium is needed" in printed
    assert len(api.protected_tags) == 2


def test_a_protection_that_is_too_wide_is_replaced(api: FakeGitLab, setup: Run) -> None:
    setup("--apply")
    api.protected_tags[0]["create_access_levels"] = [{"access_level": 30}]
    api.protected_branches[0]["push_access_levels"] = [
        {"access_level": 0},
        {"access_level": 40, "user_id": 7},
    ]
    printed = setup("--apply")
    assert "create: developers -> create: maintainers" in printed
    assert "push: no one and a named account" in printed
    assert "Nothing to do" in setup()


def test_a_branch_that_lost_its_protection_on_the_way_is_named(api: FakeGitLab, setup: Run) -> None:
    api.broken[("POST", "protected_branches")] = (500, b'{"message": "no"}')
    assert "main is now without protection" in refused(setup, "--apply")


def test_stricter_settings_stay(api: FakeGitLab, setup: Run) -> None:
    api.project |= {
        "ci_pipeline_variables_minimum_override_role": "no_one_allowed",
        "container_registry_access_level": "private",
        "merge_method": "rebase_merge",
    }
    kept = dict(api.project)
    setup("--apply")
    for name in ("ci_pipeline_variables_minimum_override_role", "merge_method"):
        assert api.project[name] == kept[name]
    assert api.project["container_registry_access_level"] == "private"
    assert "Nothing to do" in setup()


def test_rows_can_be_kept(api: FakeGitLab, setup: Run) -> None:
    setup("--apply", "--keep", "public_jobs", "--keep", "main", "--keep", "landcover@*")
    assert api.project["public_jobs"] is True
    assert api.protected_branches[0]["push_access_levels"] == [{"id": 1, "access_level": 40}]
    assert [row["name"] for row in api.protected_tags] == ["landcover#*"]
    assert "not a row" in refused(setup, "--keep", "mian")


def test_schedules_are_made_asleep_and_stay_as_the_team_sets_them(
    api: FakeGitLab, setup: Run
) -> None:
    setup("--apply")
    tasks = [(row["description"], row["variables"][0]["value"]) for row in api.pipeline_schedules]
    assert tasks == [(name, name) for name in ("retrain", "retention", "audit")]
    assert not any(row["active"] for row in api.pipeline_schedules)
    schedule = api.pipeline_schedules[0]
    schedule |= {"active": True, "cron": "0 5 * * *"}
    assert "Nothing to do" in setup("--apply")
    assert (schedule["active"], schedule["cron"]) == (True, "0 5 * * *")


def test_a_schedule_that_lost_its_task_gets_it_back(api: FakeGitLab, setup: Run) -> None:
    api.broken[("POST", "pipeline_schedules/.*/variables")] = (500, b"{}")
    refused(setup, "--apply")
    api.broken.clear()
    assert "~ schedule retrain: variable TASK retrain" in setup("--apply")
    assert api.pipeline_schedules[0]["variables"][0]["value"] == "retrain"
    assert "Nothing to do" in setup()


def test_more_labels_than_a_page_holds_are_seen(api: FakeGitLab, setup: Run) -> None:
    api.labels = [{"name": f"label-{number}"} for number in range(45)] + [{"name": "retrain"}]
    setup("--apply")
    assert len(api.labels) == 46


def test_a_token_without_the_scope_is_refused_with_the_name_of_the_scope(
    api: FakeGitLab, setup: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITLAB_TOKEN", api.admit(scopes=("read_user",)))
    assert "the token lacks the scope 'api'" in refused(setup)
    monkeypatch.setenv("GITLAB_TOKEN", api.admit(scopes=("read_api",)))
    setup()  # enough to look
    assert "the token lacks the scope 'api'" in refused(setup, "--apply")


def test_a_wrong_or_missing_token_is_reported(
    api: FakeGitLab, setup: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITLAB_TOKEN", "glpat-wrong")
    said = refused(setup)
    assert "GitLab does not know the token" in said and "glpat-wrong" not in said
    monkeypatch.delenv("GITLAB_TOKEN")
    assert "GITLAB_TOKEN: not set" in refused(setup)


def test_an_insufficient_role_is_reported(
    api: FakeGitLab, setup: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITLAB_TOKEN", api.admit(level=30))
    assert "among the developers of team/landcover: be a Maintainer" in refused(setup)


def test_a_missing_project_is_reported(api: FakeGitLab, setup: Run) -> None:
    said = refused(setup, "--project", "team/nothing")
    assert "opening the project 'team/nothing': not found" in said


def test_an_empty_project_and_another_default_branch_are_reported(
    api: FakeGitLab, setup: Run
) -> None:
    api.project["empty_repo"] = True
    assert "git push origin main" in refused(setup, "--apply")
    api.project |= {"empty_repo": False, "default_branch": "master"}
    assert "the default branch is 'master'" in refused(setup, "--apply")
    assert api.changes() == []


def test_merged_results_are_switched_off_where_gitlab_has_them(api: FakeGitLab, setup: Run) -> None:
    assert "merge_pipelines_enabled" not in setup()
    api.project["merge_pipelines_enabled"] = True
    assert "~ setting merge_pipelines_enabled: on -> off" in setup("--apply")
    assert api.project["merge_pipelines_enabled"] is False


def test_missing_features_of_an_old_gitlab_are_reported(api: FakeGitLab, setup: Run) -> None:
    api.version = "16.11.3"
    del api.project["ci_push_repository_for_job_token_allowed"]
    del api.project["ci_pipeline_variables_minimum_override_role"]
    printed = setup("--apply")
    assert "older than 17.2" in printed
    assert "setting ci_pipeline_variables_minimum_override_role: GitLab 17.1 is needed" in printed
    assert "variables cannot be hidden" in printed
    assert api.project["merge_method"] == "merge"
    api.version = "18.4.0"
    assert "older than" not in setup()


def test_an_unreachable_gitlab_is_reported(setup: Run) -> None:
    said = refused(setup, "--url", "http://127.0.0.1:1")
    assert "GitLab cannot be reached (ConnectionError)" in said


def test_another_server_is_reported(api: FakeGitLab, setup: Run) -> None:
    api.broken[("GET", "version")] = (200, b"<html>")
    assert "the response is not GitLab's" in refused(setup)
    api.broken[("GET", "version")] = (200, b"[]")
    assert "does not report its version" in refused(setup)
    assert "write https://gitlab.example.com" in refused(setup, "--url", "gitlab.example.com")


@pytest.mark.parametrize(
    ("remote", "where"),
    [
        ("https://gitlab.example.com/team/landcover.git", "https://gitlab.example.com"),
        ("https://ana:secret@gitlab.example.com/team/landcover", "https://gitlab.example.com"),
        ("https://gitlab.example.com:8443/team/landcover.git", "https://gitlab.example.com:8443"),
        ("git@gitlab.example.com:team/landcover.git", "https://gitlab.example.com"),
        ("ssh://git@gitlab.example.com:2222/team/landcover.git", "https://gitlab.example.com"),
    ],
)
def test_the_address_of_gitlab_is_read_from_the_remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: str, where: str
) -> None:
    run("git", "init", "--quiet", cwd=tmp_path)
    run("git", "remote", "add", "origin", remote, cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITLAB_TOKEN", raising=False)
    monkeypatch.setattr(sys, "argv", ["gitlab_setup"])
    monkeypatch.setattr(address, "locate", lambda url, path: (url, path))
    assert gitlab_setup.where(gitlab_setup.parse()) == (where, "team/landcover")


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["--url=", "--project="], ("https://gitlab.example.com", "team/landcover")),
        (["--url=https://other.example"], ("https://other.example", "team/landcover")),
        (["--project=a/b"], ("https://gitlab.example.com", "a/b")),
        (["--url=https://other.example", "--project=a/b"], ("https://other.example", "a/b")),
        (["--url=https://other.example/a/b"], ("https://other.example", "a/b")),
    ],
)
def test_what_is_given_counts_before_the_remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], where: tuple[str, str]
) -> None:
    run("git", "init", "--quiet", cwd=tmp_path)
    run("git", "remote", "add", "origin", "git@gitlab.example.com:team/landcover", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gitlab_setup", *words])
    monkeypatch.setattr(address, "locate", lambda url, path: (url, path))
    assert gitlab_setup.where(gitlab_setup.parse()) == where


def test_rollouts_keep_their_order(api: FakeGitLab, setup: Run) -> None:
    rows = [{"id": 1, "key": key, "process_mode": "unordered"} for key in ("staging", "retrain")]
    api.resource_groups = rows
    assert "~ resource group staging: unordered -> oldest_first" in setup("--apply")
    assert [row["process_mode"] for row in rows] == ["oldest_first", "unordered"]
    assert "resource group" not in setup()


def test_push_rules_that_refuse_the_bots_are_named(api: FakeGitLab, setup: Run) -> None:
    assert "push rule" not in setup()
    api.push_rule["reject_unsigned_commits"] = True
    assert "push rule reject_unsigned_commits: the bots do not sign" in setup()
    api.premium = False
    assert "push rule" not in setup()


@pytest.mark.parametrize("prefix", ["", "/gitlab", "/a/b"])
def test_a_gitlab_below_a_path_is_found(api: FakeGitLab, prefix: str) -> None:
    api.prefix = prefix
    assert address.locate(api.url, f"{prefix}/{PATH}".strip("/")) == (api.url + prefix, PATH)


def test_a_server_that_is_no_gitlab_is_left_to_the_next_request() -> None:
    assert address.locate("http://127.0.0.1:1", PATH) == ("http://127.0.0.1:1", PATH)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the remote origin is not an address of GitLab: give the project's"),
        (["--url=x"], "URL: 'x' is not an address: write https://gitlab"),
        (["--url=https://"], "URL: 'https://' is not an address: write https://gitlab"),
        (["--url=https://git.example.com"], "URL=https://git.example.com names the server alone"),
        (["--project=a/b"], "the remote origin is not an address of GitLab: give the project's"),
    ],
)
def test_what_names_no_project_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    run("git", "init", "--quiet", cwd=tmp_path)
    run("git", "remote", "add", "origin", "/srv/git/landcover.git", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gitlab_setup", *words])
    with pytest.raises(SystemExit) as ended:
        gitlab_setup.main()
    assert said in str(ended.value.code) and "https://gitlab.example.com/team/name" in str(
        ended.value.code
    )


def test_the_project_of_a_remote_with_a_port_and_a_path_is_set_up(
    api: FakeGitLab, setup: Run, tmp_path: Path
) -> None:
    api.prefix = "/gitlab"
    run("git", "init", "--quiet", cwd=tmp_path)
    remote = f"{api.url}/gitlab/{PATH}.git"
    run("git", "remote", "add", "origin", remote, cwd=tmp_path)
    printed = setup("--url=", "--project=", "--apply")
    assert f"gitlab-setup: {PATH} on {api.url}/gitlab (GitLab" in printed
    assert api.project["only_allow_merge_if_pipeline_succeeds"]


def test_the_command_ends_with_a_sentence_not_with_a_stack_trace(
    api: FakeGitLab, setup: Run, tmp_path: Path
) -> None:
    words = ("-m", "delivery.gitlab_setup", "--url", api.url, "--project", str(NUMBER))
    done = run(sys.executable, *words, cwd=tmp_path)
    assert "Plan: " in done.stdout
    (tmp_path / "params.yaml").write_text("model: [")
    failed = run(sys.executable, *words, cwd=tmp_path, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: params.yaml") and failed.stderr.count("\n") == 1


def test_every_variable_of_the_documentation_stands_in_the_table() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    table = re.findall(r"^\| `([A-Z_]+)` \|", text, flags=re.MULTILINE)
    assert sorted(set(table)) == sorted({row.key for row in desired.VARIABLES})
    for row in desired.VARIABLES:
        line = next(line for line in text.splitlines() if line.startswith(f"| `{row.key}` |"))
        seen = "protected" if row.protected else "every branch"
        assert f"| {seen} |" in line, f"{row.key}: seen by {seen}"


def blocks(kind: str) -> list[str]:
    """The examples of a kind in the documentation, without the indentation of lists."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{kind}\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    return [
        "".join(line[len(indent) :] for line in body.splitlines(True)) for indent, body in found
    ]


def test_the_values_of_the_documentation_are_taken(tmp_path: Path) -> None:
    examples = [block for block in blocks("ini") if "SERVICE_JWT" not in block]
    (tmp_path / "landcover.env").write_text("".join(examples))
    values = read_values(tmp_path / "landcover.env")
    assert {"TRAIN_RUNNER_TAG", "NOTIFY_URL", "KUBE_CONTEXT", "STAGING_URL"} <= values.keys()


def test_the_policies_and_settings_of_the_documentation_can_be_read() -> None:
    trust, rights = [json.loads(block) for block in blocks("json")]
    assert "project_path:team/landcover:*" in json.dumps(trust)
    deleting = [row for row in rights["Statement"] if "s3:DeleteObject" in row["Action"]]
    assert [row["Resource"] for row in deleting] == [
        "arn:aws:s3:::my-bucket/landcover/checkpoints/*"
    ]
    agent = yaml.safe_load(blocks("yaml")[0])
    assert agent["ci_access"]["projects"][0]["protected_branches_only"] is True


def test_every_variable_that_the_pipeline_reads_stands_in_the_table() -> None:
    files = [*ci.FILES, ROOT / "ci" / "credentials"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    read = set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", text))
    made = set(re.findall(r"^ +([A-Z][A-Z0-9_]+):", text, flags=re.MULTILINE)) - {
        "TRAIN_RUNNER_TAG"
    }
    by_gitlab = {name for name in read if name.startswith("CI_")}
    by_jobs = {"VERSION", "REVIEW_APP_URL"}  # reports of the jobs `register` and `review`
    by_images = {"SSL_CERT_FILE", "PWD"}
    left = read - made - by_gitlab - by_jobs - by_images - {"TASK", "JOBS_ATTEMPT"}
    assert left <= {row.key for row in desired.VARIABLES}
    assert {"TRAIN_RUNNER_TAG", "STAGING_URL", "AWS_ROLE_ARN"} <= left


def test_the_tasks_of_the_schedules_are_those_that_the_jobs_ask_for() -> None:
    files = list(ci.FILES)
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    asked = set(re.findall(r'\$TASK == "(\w+)"', text))
    assert asked == {row.task for row in desired.SCHEDULES}


def test_every_setting_of_the_documentation_stands_in_the_table() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:ci_|only_allow_|allow_merge_)[a-z_]+)`", text))
    assert named <= {row.field for row in desired.SETTINGS}


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_that_are_not_there_are_named(
    setup: Run, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "/nowhere.pem")
    said = refused(setup, "--url", "https://127.0.0.1:1")
    assert f"{variable} is '/nowhere.pem', and no such file exists" in said
