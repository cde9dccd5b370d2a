"""Imports point one way, and each heavy package is imported in one file only."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALONE = {
    "spacy": "model/extraction.py",
    "datasets": "model/hub.py",
    "ray": "tuner/ray_engine.py",
    "sqlalchemy": ("tuner/storage.py", "tuner/tables.py"),
    "optuna_dashboard": ("tuner/dashboard.py", "tuner/display.py"),
    "matplotlib": "tuner/pictures.py",
    "boto3": "tuner/artifacts.py",
    "prometheus_client": "tuner/metrics.py",
}
MODEL = """
errors devices replay files config stories extraction hub sources vocabulary layout alignment corpus description
noise parameters layers augmentation softmax network shortlist losses batches optimizer settings evaluation
tally probe trainer checkpoint inference
"""
TUNER = """
errors options health intervals verdict judges space definition starters pruning storage tables patient buffer study budget pace
promotion climb warm seam failures saving single trainers width forecast wire remote_end remote lanes artifacts states snapshots
slots arrays ownership intake peers vanguard admission bench diagnosis faults comparison winner halfway tested confirm observer endings
choice summary inspection search progress events metrics views charts plots pictures report display publish watch gate dashboard doctor
training crew ray_engine preparation job signals cli_model cli_study cli_view cli __main__
"""
ORDER = {"model": MODEL.split(), "tuner": TUNER.split()}


def imports(path: Path) -> set[str]:
    """The modules a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_every_module_imports_only_what_stands_before_it() -> None:
    """The order is the architecture; `model` never imports `tuner` or Optuna."""
    for package, order in ORDER.items():
        assert sorted(order) == sorted(path.stem for path in (ROOT / package).glob("*.py") if path.stem != "__init__"), package
        for place, module in enumerate(order):
            for name in imports(ROOT / package / f"{module}.py"):
                parts = name.split(".")
                if parts[0] == package and len(parts) > 1 and parts[1] in order:
                    assert order.index(parts[1]) < place, f"{package}/{module}.py imports {name}"
                if package == "model":
                    assert parts[0] not in ("tuner", "optuna"), f"model/{module}.py imports {name}"


@pytest.mark.parametrize("package", ["model", "tuner"])
def test_each_room_has_a_map_of_all_that_is_in_it(package: str) -> None:
    """The docstring of the package names every file."""
    named = set(re.findall(r"\w+\.py", ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())) or ""))
    assert named == {path.name for path in (ROOT / package).glob("*.py") if not path.name.startswith("__")}


def test_heavy_packages_have_one_door_each() -> None:
    """The only file that imports SQLAlchemy is the storage, and so on."""
    for path in [*(ROOT / "model").glob("*.py"), *(ROOT / "tuner").glob("*.py")]:
        for name in imports(path):
            first = name.split(".")[0]
            allowed = ALONE.get(first, path.relative_to(ROOT).as_posix())
            assert path.relative_to(ROOT).as_posix() in ((allowed,) if isinstance(allowed, str) else allowed), f"{path} imports {first}"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("tuner.cli", "torch optuna sqlalchemy pydantic"),
        ("tuner.remote_end, tuner.saving", "optuna sqlalchemy pydantic scipy rich"),
        ("tuner.job", "optuna_dashboard matplotlib sklearn"),
        ("tuner.summary, tuner.watch, tuner.choice, tuner.budget, tuner.report", "torch sklearn pandas"),
        ("tuner.dashboard, tuner.artifacts, tuner.study", "torch"),
    ],
)
def test_what_is_waited_for_loads_no_more_than_it_needs(modules: str, heavy: str) -> None:
    """The command line before it knows what is asked; a process that trains; a search before its first trial;
    who only looks on."""
    code = f"import {modules}, sys; print(*({set(heavy.split())!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not loaded.stdout.split()
