"""README's commands for a model outside of annotary, as a person types them: a batch, a server, curl."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from conftest import PROJECT
from models.bundles import make_bundle, make_provenance
from models.conformance import make_spec
from servers import find_port, wait_for
from simulate import LABELS, simulate_cells

from annotary import registry
from annotary.config import PromoteConfig
from annotary.tracking import stage_run

pytestmark = pytest.mark.full

BIN = Path(sys.executable).parent
PORT = "5001"


def read_commands() -> list[str]:
    """Read the commands of README's blocks that name this file."""
    readme = (PROJECT / "README.md").read_text()
    blocks = re.findall(
        r"<!-- tests/e2e/test_serving.py runs these -->\n```console\n(.*?)```", readme, re.DOTALL
    )
    return [command.strip() for block in blocks for command in block.split("$ ")[1:]]


def find_command(start: str, *, last: bool = False) -> str:
    found = [command for command in read_commands() if command.startswith(start)]
    return found[-1 if last else 0]


def type_in(command: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=make_environment(), capture_output=True,
                          text=True, timeout=200, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def folder(module_store) -> Path:
    """A folder with a champion in its registry, cells, and their counts as JSON."""
    with stage_run("baselines", PromoteConfig()) as run:
        bundle = make_bundle(LABELS, make_spec(), provenance=make_provenance(run_id=run.run_id))
        candidate = registry.log_bundle(bundle)
    version = registry.register(candidate, "cell-annotator", tags={})
    registry.set_alias(version, "champion")
    query = simulate_cells(9, len(make_spec().gene_ids))
    query.var_names = list(make_spec().gene_ids)
    query.write_h5ad(module_store / "cells.h5ad")
    type_in(find_command("python -c"), module_store)
    return module_store


@pytest.fixture(scope="module")
def expected(folder) -> pd.DataFrame:
    model = mlflow.pyfunc.load_model("models:/cell-annotator@champion")
    return model.predict(pd.DataFrame({"path": ["cells.h5ad"]}))


@pytest.fixture(scope="module")
def port(folder) -> str:
    """The port of a server that README's command started."""
    port = find_port()
    command = find_command("mlflow models serve").replace(PORT, port)
    server = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=folder,
        env=make_environment(),
        stdout=(folder / "server.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server, folder / "server.log")
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def check_rows(answer: str, expected: pd.DataFrame) -> None:
    found = pd.DataFrame(json.loads(answer)["predictions"])
    pd.testing.assert_frame_equal(
        found[expected.columns], expected.reset_index(drop=True), check_dtype=False, rtol=1e-5
    )


def test_a_table_of_counts_is_predicted_in_a_batch(folder, expected):
    type_in(find_command("mlflow models predict"), folder)
    check_rows((folder / "labels.json").read_text(), expected.drop(columns="path").head(5))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("last", "n_cells"), [(False, 5), (True, 9)])
def test_a_server_answers_what_curl_asks(folder, expected, port, last, n_cells):
    answer = type_in(find_command("curl", last=last).replace(PORT, port), folder)
    check_rows(answer, (expected if last else expected.drop(columns="path")).head(n_cells))


def test_a_server_names_what_is_wrong_with_a_request(folder, port):
    body = json.dumps({"dataframe_split": {"columns": ["CD3D"], "data": [[1]]}}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code >= 400
    assert "at least 50% of the model's 40 genes" in refused.value.read().decode()


def test_readme_s_commands_are_all_run_here():
    assert [command.split()[0] for command in read_commands()] == [
        "python",
        "mlflow",
        "mlflow",
        "curl",
        "curl",
    ]
