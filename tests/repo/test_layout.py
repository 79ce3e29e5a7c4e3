"""The rules of the house that a machine can check; import-linter has those about imports."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

MODULES = sorted(
    path for package in ("src", "service", "monitoring") for path in ROOT.glob(f"{package}/**/*.py")
)
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
TRACKED = subprocess.run(
    ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split("\0")[:-1]


def test_files_and_functions_are_read_in_one_go() -> None:
    offenders = []
    for path, tree in TREES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > 500:
            offenders.append(f"{_name(path)}: {lines} lines, at most 500")
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (node.end_lineno or 0) - node.lineno + 1
            is_training_loop = (path.name, node.name) == ("train.py", "epochs")
            if lines > 60 and not is_training_loop:
                offenders.append(f"{_name(path)}: {node.name} has {lines} lines, at most 60")
    assert offenders == []


def test_everything_public_has_a_docstring() -> None:
    offenders = []
    for path, tree in TREES.items():
        if not ast.get_docstring(tree) and path.name != "__init__.py":
            offenders.append(_name(path))
        scopes: list[ast.Module | ast.ClassDef] = [
            tree,
            *(node for node in tree.body if isinstance(node, ast.ClassDef)),
        ]
        for scope in scopes:
            for node in scope.body:
                if not isinstance(node, DEFINITION) or node.name.startswith("_"):
                    continue
                if not ast.get_docstring(node) and not _is_parameters(node):
                    offenders.append(f"{_name(path)}: {node.name}")
    assert offenders == []


def _is_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Sections of the parameters are documented where people read them: in params.yaml."""
    bases = node.bases if isinstance(node, ast.ClassDef) else []
    return any(isinstance(base, ast.Name) and base.id == "Section" for base in bases)


def test_no_file_is_a_dumping_ground() -> None:
    dumping_grounds = ("utils", "helpers", "common", "misc")
    assert [_name(path) for path in MODULES if path.stem in dumping_grounds] == []


def test_no_file_imports_a_test_module() -> None:
    offenders = []
    for path in sorted(ROOT.glob("tests/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            elif not isinstance(node, ast.Import):
                continue
            modules = [name for name in names if ".test_" in name and name.startswith("tests.")]
            offenders += [f"{_name(path)}: {name}" for name in modules]
    assert offenders == [], "move what they share to tests/make or tests/fakes"


def test_nothing_large_is_in_git_but_the_sample() -> None:
    offenders = [
        name
        for name in TRACKED
        if (ROOT / name).is_file()
        and not name.startswith("sample/")
        and (ROOT / name).stat().st_size >= 3 * 2**20
    ]
    assert offenders == []


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_importing_all_but_training_takes_neither_torch_nor_dvc_and_writes_no_file(
    tmp_path: Path,
) -> None:
    names = "load preprocess evaluate ingest gate report challenge model_tests.work".split()
    code = f"import {', '.join(f'pipeline.{name}' for name in names)}; import sys; sys.exit("
    code += "{'torch', 'dvc'} & sys.modules.keys() or None)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


def test_git_is_started_at_few_places_each_with_the_safe_environment() -> None:
    """A user's signing, hooks and formats would change what a command does or prints."""
    starts = {
        _name(path)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.List | ast.Tuple)
        for first in node.elts[:1]
        if isinstance(first, ast.Constant) and first.value == "git"
    }
    assert starts == {
        "src/delivery/git.py",
        "src/jobs/repository.py",
        "src/pipeline/repository.py",
        "src/pipeline/search/winner.py",
        "service/registry/git.py",
    }
    for name in starts:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "safe.environment()" in text and "env=" in text, name
