"""Every reader of foreign bytes, by module: a new one that goes around the gate fails here.

Where a call is missing from the table, use what the gate has (``data.hdf5``, ``data.packed``,
``data.pickles``, ``data.zarr_gate``, ``pyfunc_gate``); add a module only where what it reads was written by
this process, or checked before.
"""

import ast
from pathlib import Path

import pytest

import annotary

ROOT = Path(annotary.__file__).parent

READERS = {
    # HDF5: one opening for reading, one reader of elements; the others write files of their own.
    "h5py.File": {
        "data.hdf5",
        "data.dataset",
        "data.formats",
        "data.modalities",
        "data.old_layout",
        "data.zarr_store",
        "scoring.outputs",
    },
    "anndata.read_h5ad": {"data.hdf5"},
    "anndata.io.read_elem": {"data.hdf5", "data.zarr_store"},
    "anndata.io.sparse_dataset": {"data.h5ad_elements"},
    # zarr: what the store says of itself is checked by data.zarr_gate.
    "zarr.open_group": {"data.zarr_store"},
    # Pickles: one place, behind --allow-pickle; the other arrays are files of this process.
    "numpy.load": {
        "data.pickles",
        "models.transformer.processes",
        "models.transformer.tokens",
        "quality.embedding_process",
    },
    "scipy.sparse.load_npz": {"quality.embedding_process"},
    "torch.load": {"models.transformer.loop"},
    # Text: data.packed knows packing, encodings and limits; the others read what annotary logged or wrote.
    "pandas.read_csv": {
        "data.labels",
        "data.ontology",
        "data.tenx",
        "scoring.agreement",
        "stages.cleaning",
        "stages.held_out_calls",
    },
    "pandas.read_parquet": {"scoring.agreement", "stages.held_out_table"},
    "pyarrow.parquet.read_schema": {"scoring.tables"},
    "gzip.open": {"data.packed"},
    # Models: safetensors and JSON, checked by their hashes; MLflow loads only what pyfunc_gate let through.
    "safetensors.numpy.load_file": {"models.baselines.annotator", "models.bundle_files", "models.ensemble"},
    "safetensors.torch.load_file": {
        "models.transformer.classifier",
        "models.transformer.pretrained",
        "models.transformer.processes",
    },
    "mlflow.models.Model.load": {"pyfunc_gate"},
    "mlflow.pyfunc.load_model": {"pyfunc_process"},
    "json.loads": {
        "data.dataset",
        "data.zarr_gate",
        "ledger",
        "models.bundle_files",
        "models.ensemble",
        "models.transformer.config",
        "models.transformer.pretrained",
        "pyfunc_process",
        "quality.prepare",
        "scoring.ledger_rows",
        "scoring.output_rows",
        "scoring.tables",
        "scoring.written",
        "stages.baselines",
        "stages.candidates",
        "stages.cleaning",
        "stages.dataset_record",
        "stages.model_cards",
        "stages.shadow",
        "stages.written_log",
        "version_check",
        "version_files",
    },
}
"""Modules that may call a reader; a name without a last part stands for all modules below."""

NEVER = (
    "anndata.experimental.read_elem",
    "anndata.experimental.read_lazy",
    "anndata.read_zarr",
    "builtins.eval",
    "builtins.exec",
    "bz2.open",
    "cloudpickle.load",
    "cloudpickle.loads",
    "dill.load",
    "dill.loads",
    "h5py.h5f.open",
    "joblib.load",
    "json.load",
    "lzma.open",
    "marshal.loads",
    "mlflow.sklearn.load_model",
    "mlflow.pytorch.load_model",
    "mudata.read",
    "mudata.read_h5mu",
    "numpy.fromfile",
    "numpy.loadtxt",
    "pandas.read_excel",
    "pandas.read_feather",
    "pandas.read_hdf",
    "pandas.read_pickle",
    "pandas.read_table",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "scanpy.read",
    "scanpy.read_10x_h5",
    "scanpy.read_10x_mtx",
    "scanpy.read_h5ad",
    "scipy.io.mmread",
    "shelve.open",
    "tarfile.open",
    "yaml.load",
    "yaml.unsafe_load",
    "zarr.load",
    "zarr.open",
    "zarr.open_array",
    "zarr.open_consolidated",
    "zipfile.ZipFile",
)
"""Readers that nothing in annotary calls."""

_SHORT = {"ad": "anndata", "np": "numpy", "pd": "pandas", "sc": "scanpy"}
_SAME = {
    "anndata.io.read_h5ad": "anndata.read_h5ad",
    "anndata.io.read_zarr": "anndata.read_zarr",
    "zarr.group": "zarr.open_group",
    "numpy.lib.format.read_array": "numpy.load",
    "numpy.memmap": "numpy.fromfile",
}


def list_names(tree: ast.AST) -> dict[str, str]:
    """List what each name of a module stands for."""
    names = {"eval": "builtins.eval", "exec": "builtins.exec"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.split(".")[0]
                names[alias.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def spell(node: ast.expr, names: dict[str, str]) -> str:
    """Spell what an expression such as ``np.load`` names, in full; empty where it is no such name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return ""
    whole = ".".join([names[node.id], *reversed(parts)])
    first, _, rest = whole.partition(".")
    whole = f"{_SHORT.get(first, first)}.{rest}"
    return _SAME.get(whole, whole)


def find_annotations(tree: ast.AST) -> set[ast.AST]:
    """Find all that only says of which type something is."""
    said = [
        note
        for node in ast.walk(tree)
        for note in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if note is not None
    ]
    return {inner for note in said for inner in ast.walk(note)}


def find_readers(tree: ast.AST) -> list[tuple[str, ast.expr]]:
    """Find the readers that a module names, called or passed on."""
    names, notes = list_names(tree), find_annotations(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and node not in notes:
            name = spell(node, names)
            if name in READERS or name in NEVER:
                found.append((name, node))
    return found


def find_calls(module: str, wanted: str) -> list[ast.Call]:
    """Find the calls of a reader."""
    readers = [node for name, node in FOUND[module] if name == wanted]
    tree = MODULES[module] if readers else ast.Module([], [])
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func in readers]


def name_module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {name_module(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


FOUND = {module: find_readers(tree) for module, tree in MODULES.items()}


@pytest.mark.parametrize("module", MODULES)
def test_no_reader_goes_around_the_gate(module):
    strays = [
        f"line {node.lineno}: {name}"
        for name, node in FOUND[module]
        if not any(module == place or module.startswith(f"{place}.") for place in READERS.get(name, ()))
    ]
    assert not strays, f"{module} reads foreign bytes by itself: {strays}; see the table of this test"


def test_the_table_names_no_module_that_reads_nothing():
    found = {(name, module) for module, readers in FOUND.items() for name, _ in readers}
    unused = [
        (name, place)
        for name, places in READERS.items()
        for place in places
        if not any(name == one and f"{module}.".startswith(f"{place}.") for one, module in found)
    ]
    assert not unused


def test_pickles_are_allowed_in_one_place():
    allowing = [
        module
        for module in MODULES
        for call in find_calls(module, "numpy.load")
        for word in call.keywords
        if word.arg is None
        or (word.arg == "allow_pickle" and getattr(word.value, "value", True) is not False)
    ]
    assert allowing == ["data.pickles"]


def test_torch_reads_weights_only():
    calls = [call for module in MODULES for call in find_calls(module, "torch.load")]
    assert calls
    for call in calls:
        assert {word.arg: getattr(word.value, "value", None) for word in call.keywords}[
            "weights_only"
        ] is True


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import numpy as np\nnp.load('x')", "numpy.load"),
        ("from numpy import load as read\nread('x')", "numpy.load"),
        ("import h5py\nopen_it = h5py.File", "h5py.File"),
        ("import anndata as ad\nad.io.read_elem(x)", "anndata.io.read_elem"),
        ("from anndata.io import read_elem\nread_elem(x)", "anndata.io.read_elem"),
        ("def f():\n    import pickle\n    return pickle.loads(b'')", "pickle.loads"),
        ("import mlflow\nmlflow.pyfunc.load_model('x')", "mlflow.pyfunc.load_model"),
        ("import zarr as z\ndef f(x: z.Group) -> z.Group:\n    return z.open(x)", "zarr.open"),
        ("eval('1')", "builtins.eval"),
    ],
)
def test_a_reader_is_found_however_it_is_named(source, name):
    assert name in [found for found, _ in find_readers(ast.parse(source))]
