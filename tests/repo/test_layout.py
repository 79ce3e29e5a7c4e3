"""The rules of the house that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULES = sorted(
    path for package in ("src", "service", "monitoring") for path in ROOT.glob(f"{package}/**/*.py")
)
TRACKED = subprocess.run(
    ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split("\0")[:-1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_is_short_and_so_are_its_functions(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 310
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            is_training_loop = (path.name, node.name) == ("train.py", "train")
            assert lines <= 60 or is_training_loop, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or path.name == "__init__.py"
    scopes: list[ast.Module | ast.ClassDef] = [
        tree,
        *(node for node in tree.body if isinstance(node, ast.ClassDef)),
    ]
    for scope in scopes:
        for node in scope.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                speaks = ast.get_docstring(node) or _is_parameters(node)
                assert speaks, f"{node.name} has no docstring"


def _is_parameters(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Sections of the parameters are documented where people read them: in params.yaml."""
    bases = node.bases if isinstance(node, ast.ClassDef) else []
    return any(isinstance(base, ast.Name) and base.id == "Section" for base in bases)


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("service", {"pipeline", "delivery", "torch"}),
        ("src/delivery", {"pipeline", "service", "torch"}),
        ("src/pipeline", {"delivery", "service"}),
        ("monitoring", {"pipeline", "service", "delivery", "torch"}),
    ],
)
def test_a_package_imports_none_of_the_others(package: str, others: set[str]) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not imported(path) & others, path


def test_the_contracts_import_pydantic_and_the_standard_library_alone() -> None:
    allowed = {*sys.stdlib_module_names, "pydantic", "contracts"}
    for path in (ROOT / "src" / "contracts").rglob("*.py"):
        late = {"yaml"} if path.name == "commit.py" else set()  # by the functions that parse
        assert imported(path) <= allowed | late, path


def test_the_contracts_load_no_yaml_before_they_parse_some() -> None:
    names = [path.stem for path in (ROOT / "src" / "contracts").glob("[a-z]*.py")]
    code = f"import sys, {', '.join(f'contracts.{name}' for name in names)}"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('yaml' in sys.modules)"], check=True)


def imported(path: Path) -> set[str]:
    """Top-level names of what a module imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {name.split(".")[0] for name in names}


def test_no_file_is_a_dumping_ground() -> None:
    for path in MODULES:
        assert path.stem not in ("utils", "helpers", "common", "misc")


def test_nothing_large_is_in_git_but_the_sample() -> None:
    for name in TRACKED:
        path = ROOT / name
        if path.is_file() and not name.startswith("sample/"):
            assert path.stat().st_size < 3 * 2**20, name


def test_importing_a_stage_does_nothing(tmp_path: Path) -> None:
    code = "import pipeline.load, pipeline.preprocess, pipeline.evaluate, pipeline.gate"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []


def test_stages_before_training_do_not_import_torch() -> None:
    code = (
        "import pipeline.load, pipeline.preprocess, pipeline.evaluate, pipeline.gate, sys;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
