"""The rules of the registry, on a real repository with a real origin."""

import re
from collections.abc import Callable
from functools import partial

import pytest

from contracts.commit import folder_digest
from contracts.tags import Version
from delivery.errors import GitError, Outdated, RegistryError, TagError, TakenBack
from delivery.git import Repository
from delivery.registry.registry import Registry, open_registry
from tests.conftest import run
from tests.delivery.conftest import Project, run_git
from tests.make.injection_strings import HOSTILE, TWO_HOSTILE


def number(text: str) -> Version:
    major, minor, patch = map(int, text.removeprefix("v").split("."))
    return Version("landcover", (major, minor, patch))


def refused(act: Callable[[], object]) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(RegistryError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


# Registration


def test_versions_start_at_1_0_0_and_a_new_model_bumps_the_minor_number(
    project: Project,
) -> None:
    first = project.train("one")
    assert project.registry.register(first).tag == "landcover@v1.0.0"
    second = project.train("two")
    assert project.registry.register(second).tag == "landcover@v1.1.0"
    assert project.origin_tags() == {"landcover@v1.0.0": first, "landcover@v1.1.0": second}


def test_a_version_is_an_annotated_tag_that_names_the_model_and_its_interface(
    project: Project,
) -> None:
    digest = project.write_model("one")
    version = project.registry.register(project.commit(), "Merge request !12\nby Ada")
    assert project.git("cat-file", "-t", version.tag) == "tag"
    assert project.repository.message(version.tag).splitlines() == [
        "landcover@v1.0.0",
        "",
        "Merge request !12 by Ada",
        f"Model: {digest}",
        'Interface: {"classes": ["Forest", "River"], "input.bands": ["B02", "B03", "B04", "B08"], '
        '"input.dtype": "uint16", "input.height": 64, "input.scale": 10000.0, '
        '"input.units": "reflectance", "input.width": 64, "schema": 1, '
        '"task": "classification"}',
    ]


@pytest.mark.parametrize(
    ("facts", "changed"),
    [
        ({"classes": ("Forest", "River", "Sea")}, "classes"),
        ({"classes": ("River", "Forest")}, "classes"),
        ({"bands": ("B02", "B03", "B04")}, "input.bands"),
    ],
)
def test_a_model_that_breaks_its_callers_gets_a_major_number(
    project: Project, facts: dict[str, tuple[str, ...]], changed: str
) -> None:
    project.release("one")
    assert project.register("two", **facts) == "landcover@v2.0.0"
    message = project.repository.message("landcover@v2.0.0")
    assert f"Breaks callers of landcover@v1.0.0: {changed}" in message
    assert project.register("three", **facts) == "landcover@v2.1.0"


def test_an_unrecorded_interface_bumps_the_major_number(
    project: Project,
) -> None:
    project.train("one")
    project.git("tag", "--annotate", "--message=by hand", "landcover@v1.4.2")
    project.git("push", "--quiet", "origin", "landcover@v1.4.2")
    assert project.register("two") == "landcover@v2.0.0"


def test_a_commit_keeps_its_version(project: Project) -> None:
    commit = project.train("one")
    first = project.registry.register(commit)
    assert [project.registry.register(commit) for _ in range(2)] == [first, first]
    assert project.registry.register() == first
    assert list(project.origin_tags()) == ["landcover@v1.0.0"]


def test_a_commit_with_the_newest_model_gets_no_version(project: Project) -> None:
    project.release("one")
    project.write("README.md", "Better words.")
    assert project.registry.register(project.commit("Words")).tag == "landcover@v1.0.0"


def test_a_model_that_comes_back_is_a_new_version(project: Project) -> None:
    project.release("one")
    project.release("two")
    assert project.register("one") == "landcover@v1.2.0"


def test_the_number_of_a_retired_version_is_not_reused(project: Project) -> None:
    project.release("one")
    project.release("two")
    project.registry.retire(number("v1.1.0"))
    assert project.register("three") == "landcover@v1.2.0"


def test_an_older_pipeline_that_finishes_last_registers_nothing(project: Project) -> None:
    older = project.train("one")
    project.release("two")
    project.git("checkout", "--quiet", older)
    project.write_model("one")
    message = refused(lambda: project.registry.register(older))
    assert "is outdated: landcover@v1.0.0 was registered from a later one" in message
    assert list(project.origin_tags()) == ["landcover@v1.0.0"]


def test_a_shallow_clone_is_refused(project: Project) -> None:
    project.release("one")
    folder = project.folder.parent / "shallow"
    project.train("two")
    run_git("clone", "--quiet", "--depth=1", f"file://{project.origin}", str(folder))
    shallow = Registry(Repository(folder), "landcover")
    assert "git fetch --unshallow" in refused(lambda: shallow.register("HEAD"))


@pytest.mark.parametrize("left", ["another model", "no model", "not the manifest", "one file more"])
def test_the_bundle_here_has_to_be_the_model_of_the_commit(project: Project, left: str) -> None:
    commit = project.train("one")
    if left == "another model":
        project.write("model/model.onnx", "two")
    elif left == "no model":
        (project.folder / "model").rename(project.folder / "elsewhere")
    elif left == "not the manifest":
        project.write("model/model.json", "[]")
    else:
        project.write("model/extra", "x")
    message = refused(lambda: project.registry.register(commit))
    assert "model/ is not the model that dvc.lock names" in message and "dvc pull model" in message
    assert project.origin_tags() == {}


def test_a_bundle_without_a_manifest_is_refused(project: Project) -> None:
    project.write_model("one")
    project.write("model/model.json", "[]")
    lock = (project.folder / "dvc.lock").read_text(encoding="utf-8")
    digest = folder_digest(project.folder / "model")
    project.write("dvc.lock", re.sub(r"[0-9a-f]{32}\.dir(?=\n +path: model)", digest, lock))
    commit = project.commit()
    assert "model.json is not the manifest" in refused(lambda: project.registry.register(commit))


@pytest.mark.parametrize("lock", ["", "[]", "a: [", "stages: {train: {outs: [{path: model}]}}"])
def test_a_commit_without_a_model_is_refused(project: Project, lock: str) -> None:
    project.write("dvc.lock", lock)
    commit = project.commit()
    assert "names no model: dvc repro" in refused(lambda: project.registry.register(commit))


def test_a_folder_is_named_as_dvc_names_it(project: Project) -> None:
    project.write_model("one")
    for name in ("b", "a", "a.b", "A", "in/side"):
        project.write(f"model/{name}", name)
    digest = folder_digest(project.folder / "model")
    run("dvc", "init", "--quiet", cwd=project.folder)
    (project.folder / ".gitignore").unlink()
    run("dvc", "add", "--quiet", "model", cwd=project.folder)
    assert f"md5: {digest}" in (project.folder / "model.dvc").read_text(encoding="utf-8")


# Stages


def test_a_version_goes_through_the_stages_in_order(project: Project) -> None:
    project.release("one")
    registry = project.registry
    assert registry.assign(number("v1.0.0"), "staging") == "landcover#staging#1"
    assert registry.assign(number("v1.0.0"), "production") == "landcover#production#2"
    assert registry.serving("staging") == registry.serving("production") == number("v1.0.0")
    assert set(project.origin_tags()) == {
        "landcover@v1.0.0",
        "landcover#staging#1",
        "landcover#production#2",
    }


def test_the_same_assignment_twice_makes_one_tag(project: Project) -> None:
    project.release("one", "staging")
    assert project.registry.assign(number("v1.0.0"), "staging") == "landcover#staging#1"
    assert len(project.origin_tags()) == 2


def test_production_refuses_a_version_that_staging_never_served(project: Project) -> None:
    project.release("one", "staging", "production")
    project.release("two")
    message = refused(lambda: project.registry.assign(number("v1.1.0"), "production"))
    assert message.startswith("production does not take landcover@v1.1.0: staging never served it")
    assert project.registry.serving("production") == number("v1.0.0")


def test_force_needs_a_reason_and_keeps_it_in_the_tag(project: Project) -> None:
    project.release("one")
    assign = project.registry.assign
    for reason in ("", "  \n", "\x1b"):
        message = refused(lambda: assign(number("v1.0.0"), "production", reason, force=True))
        assert message.startswith("reason: it is empty")
    tag = assign(number("v1.0.0"), "production", "Fire\nForced: no, $(touch pwned)", force=True)
    assert project.repository.message(tag).splitlines() == [
        "landcover@v1.0.0 to production",
        "",
        "Reason: Fire Forced: no, $(touch pwned)",
        "Forced: staging never served it",
    ]
    assert not list(project.folder.rglob("pwned"))


def test_a_needless_force_is_not_recorded_in_the_tag(project: Project) -> None:
    project.release("one", "staging")
    tag = project.registry.assign(number("v1.0.0"), "production", "Why not", force=True)
    assert "Forced" not in project.repository.message(tag)


def test_production_accepts_a_version_that_staging_served_once(project: Project) -> None:
    project.release("one", "staging", "production")
    project.release("two", "staging")
    project.release("three", "staging")
    project.registry.assign(number("v1.1.0"), "production")
    assert project.registry.serving("production") == number("v1.1.0")


def test_an_older_version_that_comes_last_is_refused_as_outdated(project: Project) -> None:
    project.release("one", "staging")
    project.release("two", "staging", "production")
    message = refused(lambda: project.registry.assign(number("v1.0.0"), "production"))
    assert "it is outdated, production serves landcover@v1.1.0" in message
    for stage in ("staging", "production"):
        with pytest.raises(Outdated):
            project.registry.check(number("v1.0.0"), stage)
    project.registry.assign(number("v1.0.0"), "production", allow_older=True)
    assert project.registry.serving("production") == number("v1.0.0")


def test_a_version_that_staging_never_served_is_outdated_only_when_staging_serves_a_newer_one(
    project: Project,
) -> None:
    """Its pipeline has nothing left to do; without a newer one it has skipped a stage."""
    project.release("one")
    with pytest.raises(RegistryError, match="staging never served it") as refusal:
        project.registry.check(number("v1.0.0"), "production")
    assert not isinstance(refusal.value, Outdated)
    project.release("two", "staging")
    with pytest.raises(Outdated, match="staging never served it"):
        project.registry.check(number("v1.0.0"), "production")


def test_check_refuses_like_assign_and_writes_nothing(project: Project) -> None:
    project.release("one")
    registry = project.registry
    refused(lambda: registry.check(number("v1.0.0"), "production"))
    assert registry.check(number("v1.0.0"), "staging") == ""
    forced = registry.check(number("v1.0.0"), "production", "Fire", force=True)
    assert forced == "staging never served it"
    assert list(project.origin_tags()) == ["landcover@v1.0.0"]


def test_an_unregistered_version_is_refused_by_its_name(project: Project) -> None:
    registry = project.registry
    for act in (
        lambda: registry.assign(number("v9.0.0"), "staging"),
        lambda: registry.retire(number("v9.0.0")),
        lambda: registry.find("v9.0.0"),
        lambda: registry.find("other@v1.0.0"),
    ):
        assert "is not registered: make models lists them" in refused(act)


# Back


def test_rollback_assigns_the_version_served_before(project: Project) -> None:
    for model in ("one", "two", "three"):
        project.release(model, "staging")
    registry = project.registry
    registry.assign(number("v1.0.0"), "production")
    registry.assign(number("v1.2.0"), "production")
    assert registry.rollback("production") == "landcover#production#6"
    assert registry.serving("production") == number("v1.0.0")
    assert registry.serving("staging") == number("v1.2.0")


def test_rollback_twice_ends_where_rollback_once_does(project: Project) -> None:
    for model in ("one", "two", "three"):
        project.release(model, "staging", "production")
    tag = project.registry.rollback("production")
    assert project.registry.rollback("production") == tag
    assert project.registry.serving("production") == number("v1.1.0")


def test_rollback_goes_further_back_to_a_version_by_name(project: Project) -> None:
    for model in ("one", "two", "three"):
        project.release(model, "staging", "production")
    registry = project.registry
    registry.rollback("production")
    registry.rollback("production", number("v1.0.0"), "Both were bad")
    assert registry.serving("production") == number("v1.0.0")
    message = project.repository.message(registry.history("production")[0].tag)
    assert "Reason: Both were bad" in message


def test_rollback_skips_retired_versions(project: Project) -> None:
    for model in ("one", "two", "three"):
        project.release(model, "staging", "production")
    project.registry.retire(number("v1.1.0"))
    project.registry.rollback("production")
    assert project.registry.serving("production") == number("v1.0.0")


def test_rollback_returns_to_a_version_that_was_forced(project: Project) -> None:
    project.release("one")
    project.registry.assign(number("v1.0.0"), "production", "Fire", force=True)
    project.release("two", "staging", "production")
    tag = project.registry.rollback("production")
    assert project.registry.requested(tag).version == number("v1.0.0")


def test_rollback_without_an_earlier_version_is_refused(project: Project) -> None:
    assert "serves nothing" in refused(lambda: project.registry.rollback("production"))
    project.release("one", "staging", "production")
    project.release("two", "staging")
    message = refused(lambda: project.registry.rollback("production"))
    assert "served no other version before landcover@v1.0.0" in message
    message = refused(lambda: project.registry.rollback("production", number("v1.1.0")))
    assert "production never served landcover@v1.1.0" in message


def test_the_next_pipeline_does_not_undo_a_rollback(project: Project) -> None:
    project.release("one", "staging", "production")
    project.release("two", "staging", "production")
    registry = project.registry
    registry.rollback("production")
    project.write("README.md", "Better words.")
    version = registry.register(project.commit("Words"))
    message = refused(lambda: registry.assign(version, "production"))
    assert "production was rolled back from it (landcover#production#5)" in message
    with pytest.raises(TakenBack):
        registry.check(version, "production")
    registry.assign(version, "production", "The camera was repaired", force=True)
    assert registry.serving("production") == number("v1.1.0")


def test_what_staging_was_rolled_back_from_does_not_go_on_to_production(project: Project) -> None:
    project.release("one", "staging", "production")
    project.release("two", "staging")
    registry = project.registry
    registry.rollback("staging")
    for stage in ("staging", "production"):
        with pytest.raises(TakenBack, match=r"staging was rolled back from it \(.*#staging#4\)"):
            registry.check(number("v1.1.0"), stage)
    project.git("tag", "landcover#production#9", "landcover@v1.1.0^{commit}")
    assert registry.requested("landcover#production#9").version == number("v1.1.0"), "a person"
    project.release("three", "staging")
    assert registry.check(number("v1.2.0"), "production") == "", "another model goes on"


def test_a_version_that_serves_is_not_retired(project: Project) -> None:
    project.release("one", "staging")
    message = refused(lambda: project.registry.retire(number("v1.0.0")))
    assert message.startswith("staging serves landcover@v1.0.0: roll back")
    project.release("two", "staging")
    tag = project.registry.retire(number("v1.0.0"), "Clouds were $(id)\nrivers")
    assert tag == "landcover@v1.0.0!"
    assert project.registry.retire(number("v1.0.0")) == tag
    assert project.repository.message(tag).endswith("Reason: Clouds were $(id) rivers")


def test_no_stage_takes_a_retired_version_even_by_force(project: Project) -> None:
    project.release("one")
    project.registry.retire(number("v1.0.0"))
    for force in (False, True):
        message = refused(
            lambda: project.registry.assign(number("v1.0.0"), "staging", "Please", force)
        )
        assert message.startswith("landcover@v1.0.0 is retired")
    with pytest.raises(TakenBack):
        project.registry.check(number("v1.0.0"), "staging")
    assert project.registry.register() == number("v1.0.0")


# Tags by hand


def test_a_manually_pushed_tag_requests_a_version(project: Project) -> None:
    project.release("one", "staging", "production")
    project.release("two", "staging", "production")
    registry = project.registry
    for tag in ("landcover#production#7", "landcover#production"):
        project.minutes = 60 * 24 * 365 * 10
        project.git("tag", "--annotate", "--message=Back", tag, "landcover@v1.0.0^{commit}")
        assert registry.requested(tag).version == number("v1.0.0")
        assert registry.serving("production") == number("v1.0.0")


def test_a_tag_by_hand_obeys_the_rules(project: Project) -> None:
    project.release("one", "staging", "production")
    project.release("two")
    registry = project.registry
    for counter in (8, 9):  # the first does not make way for the second
        project.git("tag", f"landcover#production#{counter}", "landcover@v1.1.0^{commit}")
        message = refused(lambda: registry.requested(f"landcover#production#{counter}"))
        assert "staging never served it; delete the tag" in message
    project.git("tag", "-a", "-m", "Forced: fire", "landcover#production#10", "landcover@v1.1.0^{}")
    assert registry.requested("landcover#production#10").version == number("v1.1.0")


def test_the_pipeline_of_an_older_tag_that_finishes_last_is_refused(project: Project) -> None:
    project.release("one", "staging")
    project.release("two", "staging")
    message = refused(lambda: project.registry.requested("landcover#staging#1"))
    assert message == "tag landcover#staging#1 is outdated: landcover#staging#2 is newer"


def test_a_tag_of_a_retired_version_or_on_a_bare_commit_is_refused(project: Project) -> None:
    project.release("one")
    project.registry.retire(number("v1.0.0"))
    project.git("tag", "landcover#staging#5")
    assert "is retired" in refused(lambda: project.registry.requested("landcover#staging#5"))
    project.commit("Nothing")
    project.git("tag", "landcover#staging#6")
    assert "register the commit first" in refused(
        lambda: project.registry.requested("landcover#staging#6")
    )


def test_an_assignment_whose_rollout_failed_is_withdrawn(project: Project) -> None:
    project.release("one", "staging", "production")
    project.release("two", "staging", "production")
    registry = project.registry
    tag = registry.withdraw("landcover#production#4", "The canary was bad")
    assert tag == "landcover#production!#5"
    assert registry.withdraw("landcover#production#4") == "landcover#production#4"
    assert registry.serving("production") == number("v1.0.0")
    assert [move.withdrawn for move in registry.history("production")] == [True, False]
    assert "no other version before" in refused(lambda: registry.rollback("production"))
    assert registry.assign(number("v1.1.0"), "production") == "landcover#production#6"
    message = refused(lambda: registry.requested("landcover#production#2"))
    assert "outdated: landcover#production#6 is newer" in message


def test_a_repeated_assignment_is_not_withdrawn(project: Project) -> None:
    project.release("one", "staging")
    project.release("two", "staging")
    project.registry.rollback("staging")
    message = refused(lambda: project.registry.withdraw("landcover#staging#1"))
    assert "outdated: the version was assigned to staging again" in message


# Hostile texts


def test_hostile_texts_are_refused_and_run_nothing(project: Project) -> None:
    project.release("one", "staging")
    registry = project.registry
    for text in TWO_HOSTILE:
        for act in (
            registry.find,
            registry.rollback,
            registry.serving,
            registry.history,
            registry.requested,
            registry.withdraw,
            partial(registry.assign, number("v1.0.0")),
        ):
            with pytest.raises(TagError) as error:
                act(text)
            assert str(error.value).isprintable()
        with pytest.raises(TagError):
            Registry(project.repository, text)
        with pytest.raises(GitError):
            registry.register(text)
    assert set(project.origin_tags()) == {"landcover@v1.0.0", "landcover#staging#1"}
    assert not list(project.folder.rglob("pwned")) + list(project.origin.rglob("pwned"))


def test_a_hostile_reason_is_one_line_of_the_message(project: Project) -> None:
    project.release("one", "staging")
    reason = "\n".join(text.replace("\0", "") for text in HOSTILE)
    tag = project.registry.assign(number("v1.0.0"), "production", reason)
    title, empty, why = project.repository.message(tag).split("\n")
    assert (title, empty) == ("landcover@v1.0.0 to production", "")
    assert why.startswith("Reason: $(touch pwned) `touch pwned`") and why.isprintable()
    assert not list(project.folder.rglob("pwned")) + list(project.origin.rglob("pwned"))


@pytest.mark.parametrize("text", [None, "", "a: [", "model: {}", "model: {name: '$(id)'}", b"\xff"])
def test_the_name_of_the_model_comes_from_params_yaml(
    project: Project, text: str | bytes | None
) -> None:
    if text is not None:
        project.write("params.yaml", text)
    with pytest.raises(TagError, match="model.name"):
        open_registry(project.folder)
    project.write("params.yaml", "model: {name: landcover}")
    assert open_registry(project.folder).name == "landcover"
