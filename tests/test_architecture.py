"""The layers point one way, and heavy libraries stay in their place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import annotary

ROOT = Path(annotary.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# Which parts of annotary a part may import, besides itself and these modules of the ground floor.
GROUND = {
    "keys",
    "errors",
    "config",
    "options",
    "network_options",
    "environment",
    "launching",
    "ledger",
    "liveness",
    "log",
    "progress",
    "paths",
    "streams",
    "pulse",
    "watch",
    "bounded",
    "bounded_process",
    "sqlite_address",
    "annotary",
}
ALLOWED = {
    "data": set(),
    "quality": {"data"},
    "models": {"data", "quality"},
    "evaluation": {"data", "quality", "models"},
    "scoring": {"data", "quality", "models"},
    "outage": set(),
    "tracking_store": {"outage"},
    "tracking": {"data", "outage", "tracking_store"},
    "pyfunc": {"models", "scoring"},
    "logged_models": {"models", "outage", "pyfunc", "tracking"},
    "version_files": {"data", "models"},
    "registry": {"data", "models", "outage", "tracking", "pyfunc", "logged_models", "version_files"},
    "anchors": {"outage"},
    "ledger_run": {"outage"},
    "promotions": {"data", "outage", "registry", "tracking", "anchors", "ledger_run", "version_files"},
    "version_check": {"data", "models", "logged_models", "promotions", "registry", "version_files"},
    "recorded_version": {"registry", "tracking", "version_check"},
    "network_registry": {"registry", "tracking"},
    "pyfunc_process": set(),
    "stages": {
        "data",
        "quality",
        "models",
        "evaluation",
        "scoring",
        "outage",
        "tracking",
        "registry",
        "promotions",
        "network_registry",
        "logged_models",
        "version_files",
        "version_check",
        "recorded_version",
    },
    "cli": {"stages", "tracking", "tracking_store"},
    "__main__": {"cli"},
}
ONLY_IN = {
    "mlflow": {
        "outage",
        "tracking",
        "tracking_store",
        "logged_models",
        "registry",
        "anchors",
        "ledger_run",
        "promotions",
        "network_registry",
        "pyfunc",
    },
    "torch": {"models/transformer"},
    "scvi": {"quality/solo"},
    "optuna": {"models/tuning", "models/baselines", "models/transformer/search"},
    "click": {"cli"},
}


def list_imports(path: Path) -> list[str]:
    """List what a module imports, at its top or inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def part_of(module: str) -> str:
    """Name the part of annotary that ``annotary.part...`` belongs to."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "annotary"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_layers_point_one_way(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    parts = {part for part in ALLOWED if (ROOT / part).exists() or (ROOT / f"{part}.py").exists()}
    for name in list_imports(path):
        if not name.startswith("annotary"):
            continue
        part = part_of(name)
        if part == own or part in GROUND or part not in parts:
            continue
        assert own in ALLOWED, f"{own} is on the ground floor and imports {name}"
        assert part in ALLOWED[own], f"{own} imports {name}"


@pytest.mark.parametrize(("library", "places"), ONLY_IN.items())
def test_heavy_libraries_stay_in_their_place(library, places):
    importing = {
        path.relative_to(ROOT).as_posix().removesuffix(".py")
        for path in MODULES
        if any(name.split(".")[0] == library for name in list_imports(path))
    }
    assert importing, f"nothing imports {library}: remove it from this test and from pyproject.toml"
    strays = {name for name in importing if not any(name.startswith(place) for place in places)}
    assert not strays


def test_a_nightly_run_loads_no_library_that_only_a_picture_or_training_needs():
    heavy = {"scanpy", "umap", "numba", "matplotlib", "sklearn", "torch", "optuna", "scvi"}
    code = f"import sys, annotary.stages.score; print(*sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == []


def test_the_ground_floor_imports_nothing_above():
    for name in sorted(GROUND - {"annotary"}):
        above = {
            part_of(found) for found in list_imports(ROOT / f"{name}.py") if found.startswith("annotary.")
        }
        assert above <= GROUND | {"DEFAULT_OUTPUT"}, name


def test_modules_and_functions_stay_small():
    for path in MODULES:
        lines = path.read_text().splitlines()
        assert len(lines) <= 400, f"{path.name} has {len(lines)} lines"
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path.name}: {node.name} has {length} lines"
