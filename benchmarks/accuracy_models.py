"""The models whose accuracy is compared: labelled cells and cells without labels in, labels out.

No model is given a label of the cells that it is scored on.
"""

import contextlib
import importlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from annotary import keys
from annotary.data.dataset import LabelledCells
from annotary.data.genes import align_genes
from annotary.data.splits import assign_folds
from annotary.models.baselines import BASELINES
from annotary.models.folds import FoldedCells
from annotary.models.panels import PanelChooser, Preparation, make_space
from annotary.models.tuning.search import FittedBaseline, Search
from annotary.quality.prepare import TARGET_SUM, PreparedCells, log_normalize

PLAIN_LR, CELLTYPIST, SCANVI = "plain LR", "CellTypist", "scANVI"
SEED = 42

_MIN_CELLS = 10
_PANEL_METHOD, _PANEL_GENES, _INNER_FOLDS = "seurat", 1200, 3
_PLAIN_C = 0.03
_SCANVI_GENES, _SCVI_EPOCHS, _SCANVI_EPOCHS = 2000, 60, 25
_UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Cells:
    """Cells without their labels.

    Attributes
    ----------
    counts
        Raw counts, ``(n_cells, n_genes)``, float32.
    depth
        Counts over all genes, those left out of the file too, ``(n_cells,)``.
    cell_ids, gene_ids
        Names of rows and columns, ``(n_cells,)`` and ``(n_genes,)``.
    donors
        Donor of each cell, ``(n_cells,)``; None where it is not known.
    """

    counts: csr_matrix
    depth: np.ndarray
    cell_ids: pd.Index
    gene_ids: pd.Index
    donors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.depth)

    def take_rows(self, rows: np.ndarray) -> "Cells":
        """Take cells by position, ``(n_taken,)``."""
        return Cells(
            counts=self.counts[rows],
            depth=self.depth[rows],
            cell_ids=self.cell_ids[rows],
            gene_ids=self.gene_ids,
            donors=None if self.donors is None else self.donors[rows],
        )

    def take_genes(self, kept: np.ndarray) -> "Cells":
        """Take genes by a mask ``(n_genes,)``; the depth stays that of all genes."""
        return Cells(self.counts[:, kept], self.depth, self.cell_ids, self.gene_ids[kept], self.donors)

    def log_normalize(self) -> csr_matrix:
        """Scale to 1e4 counts a cell and take log1p, ``(n_cells, n_genes)``."""
        return log_normalize(PreparedCells(self.counts, self.depth), target_sum=TARGET_SUM)


Predict = Callable[[Cells, np.ndarray, Cells], np.ndarray]
"""Cells to train on, their labels ``(n_train,)``, held-out cells; labels of these, ``(n_test,)``."""


@dataclass(frozen=True)
class Result:
    """What one model says of the held-out cells.

    Attributes
    ----------
    model, labels
        Name of the model, and its labels, ``(n_test,)``.
    seconds
        What its training and labelling took.
    """

    model: str
    labels: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Model:
    """One model of the comparison, or several that share their training.

    Attributes
    ----------
    name, predict
        What it is called, and what it does; ``run`` in its place gives the results of ``names``.
    package
        What has to be importable for it, beside this project.
    n_trials
        Trials that it is tuned by; 0 where it is not tuned.
    """

    name: str
    predict: Predict | None = None
    package: str = "annotary"
    n_trials: int = 0
    run: Callable[[Cells, np.ndarray, Cells], list[Result]] | None = None
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its results."""
        return (self.name, *self.others)

    def label(self, train: Cells, labels: np.ndarray, held_out: Cells) -> list[Result]:
        """Train, and label the held-out cells."""
        if self.run is not None:
            return self.run(train, labels, held_out)
        started = time.perf_counter()
        predicted = self.predict(train, labels, held_out)
        return [Result(self.name, predicted, time.perf_counter() - started)]


@dataclass(frozen=True)
class TunedBaseline:
    """A baseline that was tuned on the cells of a fold.

    Attributes
    ----------
    fitted
        The model and its panel.
    panel
        Genes of its panel.
    held_out
        Calibrated probabilities of each training cell by models that were not fitted to it,
        ``(n_train, n_classes)``.
    """

    fitted: FittedBaseline
    panel: pd.Index
    held_out: np.ndarray

    def predict(self, cells: Cells) -> np.ndarray:
        """Give class probabilities of other cells, ``(n_cells, n_classes)``."""
        counts = align_genes(cells.counts, cells.gene_ids, self.panel)
        return self.fitted.model.predict_proba(PreparedCells(counts, cells.depth))


def list_models(n_trials: int) -> list[Model]:
    """List what there is to compare: our baselines, tuned by ``n_trials`` each, our networks, peers."""
    from accuracy_networks import (
        ENSEMBLE,
        ENSEMBLE_3,
        LINEAR_PANEL,
        NOTEBOOK,
        PANEL_GENES,
        TRANSFORMER,
        TRANSFORMER_3,
        TRANSFORMER_PANEL,
        predict_notebook,
        predict_on_panel,
        run_transformer,
    )

    ours = [
        Model(kind, partial(predict_tuned, kind=kind, n_trials=n_trials), n_trials=n_trials)
        for kind in BASELINES
    ]
    return [
        *ours,
        Model(
            TRANSFORMER,
            run=partial(run_transformer, n_trials=n_trials),
            n_trials=n_trials,
            others=(ENSEMBLE,),
        ),
        Model(
            TRANSFORMER_3,
            run=partial(run_transformer, n_trials=n_trials, names=(TRANSFORMER_3, ENSEMBLE_3), n_networks=3),
            n_trials=n_trials,
            others=(ENSEMBLE_3,),
        ),
        Model(
            LINEAR_PANEL,
            partial(predict_tuned, kind="logistic_regression", n_trials=n_trials, n_genes=PANEL_GENES),
            n_trials=n_trials,
        ),
        Model(TRANSFORMER_PANEL, predict_on_panel),
        Model(NOTEBOOK, predict_notebook),
        Model(PLAIN_LR, predict_plain),
        Model(CELLTYPIST, predict_celltypist, "celltypist"),
        Model(SCANVI, predict_scanvi, "scvi"),
    ]


def drop_missing(models: list[Model]) -> list[Model]:
    """Leave out models whose package is not there, and say so; imports do not count as training then."""
    there = []
    for model in models:
        try:
            importlib.import_module(model.package)
        except ImportError as error:
            print(f"{model.name} skipped: {error}", flush=True)
        else:
            there.append(model)
    return there


def predict_tuned(
    train: Cells, labels: np.ndarray, held_out: Cells, *, kind: str, n_trials: int, n_genes: int = 0
) -> np.ndarray:
    """Tune a baseline on the training cells as the baselines stage does, and label the held-out ones.

    ``n_genes`` is what :func:`fit_tuned` takes.
    """
    train = train.take_genes(find_common(train.counts))
    names, codes = np.unique(labels, return_inverse=True)
    tuned = fit_tuned(train, codes, kind=kind, n_trials=n_trials, n_genes=n_genes)
    return names[tuned.predict(held_out).argmax(axis=1)]


def fit_tuned(
    train: Cells, codes: np.ndarray, *, kind: str, n_trials: int, n_genes: int = 0
) -> TunedBaseline:
    """Tune a baseline on cells with encoded labels ``(n_train,)``, and fit it to all of them.

    With ``n_genes`` the panel is not tuned: so many genes, chosen by an F test.
    """
    seen = LabelledCells(
        counts=train.counts,
        depth=train.depth,
        codes=codes.astype(np.int64),
        cell_ids=train.cell_ids,
        folds=_assign_inner_folds(train, codes),
    )
    cells = FoldedCells(seen, train.gene_ids)
    own = Preparation("f_test" if n_genes else _PANEL_METHOD, n_genes or _PANEL_GENES, TARGET_SUM)
    space = make_space(own, n_genes=len(cells.gene_ids), fixed=n_genes > 0)
    search = Search(BASELINES[kind], cells, PanelChooser(cells), space, seed=SEED)
    fitted = search.fit(search.run(kind, "", n_trials=n_trials).best.params)
    panel = cells.gene_ids if fitted.columns is None else cells.gene_ids[fitted.columns]
    held_out = np.empty_like(fitted.calibration.after)
    held_out[cells.rows] = fitted.calibration.after
    return TunedBaseline(fitted, panel, held_out)


def predict_plain(train: Cells, labels: np.ndarray, held_out: Cells) -> np.ndarray:
    """Fit one balanced logistic regression to all genes that ten training cells express."""
    common = find_common(train.counts)
    model = LogisticRegression(C=_PLAIN_C, class_weight="balanced", max_iter=1000)
    model.fit(train.take_genes(common).log_normalize(), labels)
    return model.predict(held_out.take_genes(common).log_normalize())


def predict_celltypist(train: Cells, labels: np.ndarray, held_out: Cells) -> np.ndarray:
    """Train CellTypist by SGD with feature selection, and take each cell's best match.

    Its check of the depth is off: it would refuse files that hold some genes only, whose cells
    were scaled by the counts over all genes.
    """
    import celltypist

    with _quiet("celltypist"):
        model = celltypist.train(
            train.log_normalize(),
            labels=labels,
            genes=train.gene_ids.to_numpy(dtype=str),
            use_SGD=True,
            feature_selection=True,
            check_expression=False,
            n_jobs=-1,
            random_state=SEED,
        )
        adata = anndata.AnnData(
            X=held_out.log_normalize(),
            obs=pd.DataFrame(index=held_out.cell_ids),
            var=pd.DataFrame(index=held_out.gene_ids),
        )
        annotated = celltypist.annotate(adata, model=model, majority_voting=False)
    return annotated.predicted_labels["predicted_labels"].to_numpy(dtype=object)


def predict_scanvi(
    train: Cells,
    labels: np.ndarray,
    held_out: Cells,
    *,
    scvi_epochs: int = _SCVI_EPOCHS,
    scanvi_epochs: int = _SCANVI_EPOCHS,
) -> np.ndarray:
    """Train scVI, then scANVI, on all cells, the held-out ones without label, and label those.

    The genes are the most variable ones of the training cells. Donors, where they are known, are
    the batches that scANVI corrects for.
    """
    import scanpy
    import scvi

    common = find_common(train.counts)
    train, held_out = train.take_genes(common), held_out.take_genes(common)
    adata = anndata.concat([_make_anndata(train, labels), _make_anndata(held_out, None)])
    seen = np.arange(adata.n_obs) < len(train)
    with _quiet("scvi", "lightning.pytorch", "lightning.fabric"):
        variable = scanpy.pp.highly_variable_genes(
            adata[seen],
            flavor="seurat_v3",
            n_top_genes=min(_SCANVI_GENES, adata.n_vars),
            inplace=False,
        )["highly_variable"].to_numpy()
        adata = adata[:, variable].copy()
        scvi.settings.seed = SEED
        batch_key = None if train.donors is None else keys.GROUP
        scvi.model.SCVI.setup_anndata(adata, labels_key=keys.LABEL, batch_key=batch_key)
        options = {
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "logger": False,
            # 0.9, less a last batch of one or two cells, which batch normalisation cannot train on
            "train_size": None,
        }
        scvi_model = scvi.model.SCVI(adata)
        scvi_model.train(max_epochs=scvi_epochs, **options)
        model = scvi.model.SCANVI.from_scvi_model(scvi_model, unlabeled_category=_UNLABELLED)
        model.train(max_epochs=scanvi_epochs, **options)
        return np.asarray(model.predict(indices=np.flatnonzero(~seen)), dtype=object)


def find_common(counts: csr_matrix) -> np.ndarray:
    """Find genes that ten cells express, ``(n_genes,)``."""
    return counts.getnnz(axis=0) >= _MIN_CELLS


def _assign_inner_folds(train: Cells, codes: np.ndarray) -> np.ndarray:
    """Assign training cells to the folds that tuning sees, by whole donors where there are some."""
    groups = train.donors
    if groups is not None and len(np.unique(groups)) == 1:
        groups = None
    return assign_folds(
        train.cell_ids,
        codes,
        np.full(len(train), keys.TRAIN, dtype=object),
        groups,
        n_folds=_INNER_FOLDS,
        seed=SEED,
        place="training cells",
    )


def _make_anndata(cells: Cells, labels: np.ndarray | None) -> anndata.AnnData:
    """Make what scvi-tools takes, with labels where they may be seen."""
    obs = pd.DataFrame(index=cells.cell_ids)
    obs[keys.LABEL] = _UNLABELLED if labels is None else labels
    if cells.donors is not None:
        obs[keys.GROUP] = cells.donors
    return anndata.AnnData(X=cells.counts, obs=obs, var=pd.DataFrame(index=cells.gene_ids))


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep a peer's chatter out of the table for a while."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
