"""Make the golden bundles of the format that annotary writes now.

    python tests/golden/make_golden.py [KIND ...]

Each kind gets ``format_N/KIND`` with its bundle, and ``format_N/KIND.expected.safetensors`` with what it
says of the cells in ``format_N/query.safetensors``. A bundle that is there is never made again: it must
load, and say the same, for ever. Commit what this writes when a new format or a new kind is released.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

from annotary import __version__
from annotary.data.hashing import hash_cell_ids
from annotary.models.base import Annotator
from annotary.models.baselines import BASELINES
from annotary.models.bundle import Annotation, Bundle, Provenance
from annotary.models.bundle_files import FORMAT, load_bundle, save_bundle
from annotary.models.calibration import calibrate
from annotary.models.confidence.confidence import Confidence, ConfidenceSettings
from annotary.models.confidence.held_out import FittedCells, HeldOutCells, calibrate_probabilities
from annotary.models.confidence.novelty import LabelGaussians, measure_across_folds
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.quality.prepare import COUNTS, LOG1P, InputSpec, PreparedCells, log_normalize

GOLDEN = Path(__file__).parent
QUERY = "query.safetensors"
GENES = "genes.json"
LABELS = ("B cell", "Monozyt µ", "NK cell", "T cell")

_N_GENES, _N_PANEL = 80, 60
_TARGET_SUM = 1e3
_SETTINGS = ConfidenceSettings(conformal_alpha=0.1, min_precision=0.95, ood_rate=0.02)
_PARAMS = {
    "logistic_regression": {"C": 0.1, "l1_ratio": 0.0},
    "random_forest": {"n_estimators": 12, "max_depth": 6, "min_samples_split": 4, "min_samples_leaf": 2,
                      "max_features": "sqrt"},
    "linear_svm": {"C": 0.01},
}  # fmt: skip


def main() -> None:
    """Make those of the named kinds, or of all, that are not there yet."""
    folder = GOLDEN / f"format_{FORMAT}"
    folder.mkdir(exist_ok=True)
    if not (folder / QUERY).exists():
        write_query(folder)
    for kind in sys.argv[1:] or list(MAKERS):
        if (folder / kind).exists():
            print(f"{kind}: is there already")
            continue
        save_bundle(MAKERS[kind](kind), folder / kind)
        save_file(to_arrays(annotate_query(folder, kind)), folder / f"{kind}.expected.safetensors")
        print(f"{kind}: made")


def write_query(folder: Path) -> None:
    """Write the cells that golden bundles are asked about: known ones, new ones, and an empty one."""
    counts, _ = simulate(24, seed=1)
    counts[18:23] = np.random.default_rng(2).poisson(2.0, size=(5, _N_GENES))
    counts[23] = 0
    save_file({"counts": counts.astype(np.uint8)}, folder / QUERY)
    (folder / GENES).write_text(json.dumps(name_genes()))


def annotate_query(folder: Path, kind: str) -> Annotation:
    """Load a golden bundle and annotate the query."""
    counts = load_file(folder / QUERY)["counts"]
    genes = json.loads((folder / GENES).read_text())
    return load_bundle(folder / kind).annotate(csr_matrix(counts), genes, device="cpu")


def to_arrays(annotation: Annotation) -> dict[str, np.ndarray]:
    """Lay an annotation out as safetensors takes it."""
    return {name: np.ascontiguousarray(array) for name, array in vars(annotation).items()}


def simulate(n_cells: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate counts ``(n_cells, n_genes)`` of four labels with markers, and their codes."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(len(LABELS), size=n_cells)
    rates = np.full((len(LABELS), _N_GENES), 0.4)
    for code in range(len(LABELS)):
        rates[code, code * 8 : code * 8 + 8] = 1.2
    return rng.poisson(rates[codes]), codes


def name_genes() -> list[str]:
    """Name the genes of the query."""
    return [f"GENE{gene:03d}" for gene in range(_N_GENES)]


def simulate_training() -> tuple[PreparedCells, np.ndarray, np.ndarray]:
    """Simulate the cells that models are made of: panel counts, codes and folds."""
    counts, codes = simulate(240, seed=0)
    cells = PreparedCells(
        counts=csr_matrix(counts[:, :_N_PANEL].astype(np.float32)), depth=counts.sum(axis=1).astype(float)
    )
    return cells, codes, np.arange(240) % 3


def make_baseline(kind: str) -> Bundle:
    """Fit a baseline with its confidence to simulated cells."""
    cells, codes, folds = simulate_training()
    log_expr = log_normalize(cells, target_sum=_TARGET_SUM)
    scores = np.empty((240, len(LABELS)))
    for fold in range(3):
        model = fit_baseline(kind, log_expr[folds != fold], codes[folds != fold])
        scores[folds == fold] = model.score(log_expr[folds == fold])
    calibration = calibrate(scores, codes, folds)
    model = replace(fit_baseline(kind, log_expr, codes), temperature=calibration.temperature)
    held_out = HeldOutCells(
        probabilities=calibration.after.astype(np.float32),
        codes=codes,
        distances=measure_across_folds(log_expr, codes, folds),
    )
    return bundle_model(model, FittedCells(log_expr=log_expr, codes=codes), held_out)


def fit_baseline(kind: str, log_expr: csr_matrix, codes: np.ndarray) -> Annotator:
    """Fit a baseline with fixed hyperparameters."""
    baseline = BASELINES[kind]
    params = _PARAMS[kind] | {"class_weight": "balanced"}
    estimator = baseline.fit(log_expr, codes, params, seed=0, n_jobs=1)
    return baseline.to_annotator(estimator, target_sum=_TARGET_SUM, n_classes=len(LABELS))


def make_network(kind: str) -> Bundle:
    """Train two small networks on two folds, and learn their confidence from the third."""
    from annotary.models.transformer.training import fit_transformer  # Lightning is slow to import

    cells, codes, folds = simulate_training()
    validated = folds == 2
    networks = [
        fit_transformer(
            cells[~validated], codes[~validated], cells[validated], codes[validated],
            network=NetworkConfig(_N_PANEL, len(LABELS), d_model=16),
            training=TrainingConfig(learning_rate=1e-2, batch_size=16, seed=seed, device="cpu"),
        )[0]
        for seed in (0, 1)
    ]  # fmt: skip
    model = TransformerAnnotator(networks)
    log_expr = log_normalize(cells, target_sum=_TARGET_SUM)
    fitted = FittedCells(log_expr=log_expr[~validated], codes=codes[~validated])
    probabilities, temperature = calibrate_probabilities(
        model.predict_proba(cells[validated], device="cpu"), codes[validated], np.arange(validated.sum()) % 3
    )
    gaussians = LabelGaussians.fit(fitted.log_expr, fitted.codes)
    held_out = HeldOutCells(
        probabilities=probabilities,
        codes=codes[validated],
        distances=gaussians.measure_distance(log_expr[validated]),
        temperature=temperature,
    )
    return bundle_model(model, fitted, held_out, transform=COUNTS)


def bundle_model(
    model: Annotator, fitted: FittedCells, held_out: HeldOutCells, *, transform: str = LOG1P
) -> Bundle:
    """Put a model together with all that a bundle has."""
    spec = InputSpec(
        gene_ids=tuple(name_genes()[:_N_PANEL]),
        id_type="symbol",
        min_panel_genes=9,
        target_sum=_TARGET_SUM,
        transform=transform,
    )
    return Bundle(
        model=model,
        spec=spec,
        label_names=LABELS,
        label_counts=tuple(np.bincount(fitted.codes, minlength=len(LABELS)).tolist()),
        confidence=Confidence.fit(held_out, fitted, _SETTINGS),
        provenance=Provenance(
            dataset_hash="0" * 64,
            split_hash="1" * 64,
            run_id="golden",
            config=json.dumps(asdict(_SETTINGS)),
            package_version=__version__,
            label_source="cell_type of simulated cells",
            libraries={"numpy": np.__version__},
        ),
        seen_cells=hash_cell_ids([f"cell{cell}" for cell in range(240)], np.arange(240, dtype=np.float64)),
    )


MAKERS: dict[str, Callable[[str], Bundle]] = dict.fromkeys(_PARAMS, make_baseline) | {
    "transformer": make_network
}
"""What makes the bundle of each kind."""

TOLERANCES = dict.fromkeys(_PARAMS, 1e-6) | {"transformer": 1e-5}
"""How far what a bundle says may be from what it said, on any machine: a network computes in float32."""


if __name__ == "__main__":
    main()
