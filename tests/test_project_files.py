"""The files of the top level say the same as each other and as the code."""

import re
import tomllib
from pathlib import Path
from typing import Literal, get_args, get_origin

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from conftest import PROJECT, load_benchmark
from packaging.requirements import Requirement

from annotary import config
from annotary.cli import cli

CONFIGS = {
    "main": config.MainConfig,
    "preprocess": config.PreprocessConfig,
    "baselines": config.BaselinesConfig,
    "pretrain": config.PretrainConfig,
    "transformer": config.TransformerConfig,
    "ensemble": config.EnsembleConfig,
    "evaluate": config.EvaluateConfig,
    "promote": config.PromoteConfig,
    "rollback": config.RollbackConfig,
    "score": config.ScoreConfig,
}


def read_yaml(name: str) -> dict:
    return yaml.safe_load((PROJECT / name).read_text())


def parse(requirements: list[str]) -> dict[str, str]:
    """Map each distribution to its version specifier."""
    parsed = [Requirement(line) for line in requirements]
    return {re.sub(r"[-_.]+", "-", one.name).lower(): str(one.specifier) for one in parsed}


def read_lock() -> dict[str, str]:
    lines = (PROJECT / "requirements.lock").read_text().splitlines()
    return parse([line for line in lines if line and not line.startswith("#")])


def read_pyproject() -> dict:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())


def test_conda_and_pyproject_list_the_same_requirements():
    pip = next(entry["pip"] for entry in read_yaml("conda.yaml")["dependencies"] if isinstance(entry, dict))
    assert pip[-1] == "-e ."
    assert parse(pip[:-1]) == parse(read_pyproject()["project"]["dependencies"])


def test_the_lock_file_holds_every_requirement_at_its_version():
    lock = read_lock()
    project = read_pyproject()["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["server"],
        *read_pyproject()["dependency-groups"]["dev"],
    ]
    for name, specifier in parse(wanted).items():
        assert lock.get(name) == specifier, name


def test_the_lock_file_has_exact_versions_no_hashes_no_addresses():
    for line in (PROJECT / "requirements.lock").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


def test_the_mission_s_packages_are_required():
    wanted = [
        "mlflow",
        "torch",
        "einops",
        "scikit-learn",
        "scanpy",
        "anndata",
        "scvi-tools",
        "optuna",
        "pandas",
    ]
    assert set(wanted) <= set(parse(read_pyproject()["project"]["dependencies"]))


def test_mlproject_has_the_entry_points():
    assert set(read_yaml("MLproject")["entry_points"]) == set(CONFIGS)


@pytest.mark.parametrize("stage", CONFIGS)
def test_mlproject_parameters_are_the_configuration_s(stage):
    declared = read_yaml("MLproject")["entry_points"][stage]["parameters"]
    fields = CONFIGS[stage].model_fields
    assert set(declared) == set(fields)
    types = {int: "int", float: "float", str: "string", bool: "string"}
    for name, field in fields.items():
        kind = str if get_origin(field.annotation) is Literal else field.annotation
        assert declared[name]["type"] == types[kind], name
        if field.is_required():
            assert "default" not in declared[name], name
        else:
            assert declared[name]["default"] == field.default, name


@pytest.mark.parametrize("stage", CONFIGS)
def test_mlproject_commands_pass_every_parameter(stage):
    command = read_yaml("MLproject")["entry_points"][stage]["command"].split()
    assert command[:2] == ["annotary", stage]
    expected = [part for name in CONFIGS[stage].model_fields for part in (option(name), f"{{{name}}}")]
    assert command[2:] == expected


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize("stage", CONFIGS)
def test_command_options_are_the_configuration_s(stage):
    options = {name for parameter in cli.commands[stage].params for name in parameter.opts}
    assert options == {option(name) for name in CONFIGS[stage].model_fields}


@pytest.mark.parametrize("command", ["models", "ledger", "verify"])
def test_commands_for_people_have_no_entry_point(command):
    assert command in cli.commands
    assert command not in read_yaml("MLproject")["entry_points"]


@pytest.mark.parametrize("stage", CONFIGS)
def test_every_option_is_explained(stage):
    for parameter in cli.commands[stage].params:
        assert parameter.help
        if get_args(CONFIGS[stage].model_fields[parameter.name].annotation):
            assert parameter.type.choices


def test_unknown_options_are_refused():
    result = CliRunner().invoke(cli, ["promote", "--colour", "red"])
    assert result.exit_code == 2
    assert "No such option" in result.output


def test_unknown_configuration_keys_are_refused():
    with pytest.raises(ValueError, match="colour"):
        config.PromoteConfig(colour="red")


def test_configurations_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        config.PromoteConfig().mode = "dry_run"


def test_tracked_files_have_no_paths_of_a_machine():
    for path in (PROJECT / "src").rglob("*.py"):
        assert "/home/" not in path.read_text(), path


def test_readme_shows_the_layout_of_the_package():
    readme = (PROJECT / "README.md").read_text()
    for path in sorted((PROJECT / "src" / "annotary").iterdir()):
        if path.suffix == ".py" and not path.name.startswith("__"):
            assert path.name in readme, path.name
        elif path.is_dir() and path.name != "__pycache__":
            assert f"{path.name}/" in readme, path.name


IN_README = (
    "accuracy", "baselines", "confidence", "doublet_models", "doublets", "learning_curve", "main_job",
    "preprocess", "score", "transformer",
)  # fmt: skip
TABLES = dict.fromkeys(IN_README, "README.md") | {"levers": "benchmarks/transformer.md"}


@pytest.mark.parametrize("name", TABLES)
def test_pages_show_the_tables_of_the_benchmarks(name):
    benchmark = load_benchmark(name)
    table = benchmark.make_markdown(pd.read_csv(PROJECT / "benchmarks" / f"{name}.csv"))
    assert f"<!-- benchmarks/{name}.csv -->\n{table}\n<!-- end -->" in (PROJECT / TABLES[name]).read_text()


def test_changelog_names_the_version():
    version = re.search(r'__version__ = "(.+)"', (PROJECT / "src/annotary/__init__.py").read_text())[1]
    assert version in Path(PROJECT / "CHANGELOG.md").read_text()
