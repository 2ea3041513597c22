"""Who started this process: `mlflow run`, or somebody with an earlier run's id in the environment."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

RUN_ID = "MLFLOW_RUN_ID"

_SHELLS = ("bash", "sh", "cmd", "cmd.exe")
_PROJECT_FILE = "MLproject"
_SET_BY_MLFLOW = (RUN_ID, "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")
"""What `mlflow run` gives every command that it starts."""


@dataclass(frozen=True)
class Launcher:
    """The process that started this one, with a run for it.

    Attributes
    ----------
    folder
        Where it was called.
    is_certain
        Whether it is the command `mlflow run`; a Python program may have called ``mlflow.projects.run``, or
        only have the id of a run in its environment: what the store says of that run decides.
    """

    folder: Path
    is_certain: bool


def find_launcher() -> Launcher | None:
    """Find who started this process for a run of its own; None where nobody did.

    `mlflow run` starts a command as its child, or as the child of a shell that it gave the command to. A
    process further up says nothing: it may have started a program that calls this one with an id left over.
    """
    if RUN_ID not in os.environ:
        return None
    parents = psutil.Process().parents()
    if parents and _is_shell_with_command(parents[0]):
        parents = parents[1:]
    if not parents:
        return None
    words = _read_command(parents[0])
    is_certain = _is_mlflow_run(words)
    if not is_certain and not (_is_python(words) and _looks_like_a_project()):
        return None
    try:
        return Launcher(Path(parents[0].cwd()), is_certain)
    except (psutil.Error, OSError):
        return None


def _read_command(process: psutil.Process) -> list[str]:
    """Read a process's command line; nothing where it has ended or is not ours to look at."""
    try:
        return process.cmdline()
    except (psutil.Error, OSError):
        return []


def _is_shell_with_command(process: psutil.Process) -> bool:
    """Tell a shell that runs one command from one in which somebody types."""
    words = _read_command(process)
    return len(words) > 2 and Path(words[0]).name in _SHELLS and words[1] in ("-c", "/c")


def _is_mlflow_run(words: list[str]) -> bool:
    """Tell the command line of `mlflow run`, also as ``python -m mlflow run``."""
    names = [Path(word).name.removesuffix(".exe") for word in words[:4]]
    return "mlflow" in names and "run" in words[names.index("mlflow") + 1 :]


def _is_python(words: list[str]) -> bool:
    """Tell a Python program, which may have called ``mlflow.projects.run``."""
    return bool(words) and Path(words[0]).name.startswith(("python", "ipython", "jupyter", "pytest"))


def _looks_like_a_project() -> bool:
    """Tell whether this process has what every command of a project has: its folder, and three variables."""
    return Path(_PROJECT_FILE).is_file() and all(os.environ.get(name) for name in _SET_BY_MLFLOW)
