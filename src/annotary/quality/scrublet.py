"""Doublets by Scrublet (Wolock et al. 2019, Cell Systems), as scanpy has it."""

import contextlib
import io
import warnings
from collections.abc import Iterator

import anndata
import numpy as np
import pandas as pd
import scanpy
from scipy.sparse import csr_matrix

from annotary.quality.doublets import LaneCalls

_TARGET_SUM = 1e6
_N_COMPONENTS = 30
_LEAST_DETECTABLE = 0.2


def call_lane(counts: csr_matrix, *, seed: int) -> LaneCalls:
    """Call the doublets of one lane.

    A cell's score is the share of simulated doublets among its neighbours, weighed by the
    expected rate (scanpy's 5 %). The threshold is scanpy's: the minimum between the two modes
    of the simulated doublets' scores. Where there is none, no cell is called, and the scores
    stay for a person to judge: any other threshold would remove cells from a lane in which
    doublets cannot be told apart. Genes are scaled but not centred, which keeps cells x genes
    sparse; the doublets that were mixed into three lanes were ranked as well either way.

    Parameters
    ----------
    counts
        Raw counts, ``(n_cells, n_genes)``, at least 50 cells, no cell without counts.
    seed
        Seed of simulation and components; the process's own random states are left alone.

    Returns
    -------
    Scores and calls. It has converged if a threshold was found that at least 20 % of the
    simulated doublets lie above; otherwise the note says what was found.
    """
    adata = anndata.AnnData(X=counts.copy())
    adata.obs_names = [str(cell) for cell in range(adata.n_obs)]
    with _quiet():
        simulated = scanpy.pp.scrublet_simulate_doublets(adata, random_seed=seed)
        for cells in (adata, simulated):
            scanpy.pp.normalize_total(cells, target_sum=_TARGET_SUM)
        scanpy.pp.scrublet(
            adata,
            adata_sim=simulated,
            mean_center=False,
            n_prin_comps=min(_N_COMPONENTS, *(size - 1 for size in counts.shape)),
            # scanpy 1.11.5's approximate neighbours, its choice from 8192 cells on, fail with scipy 1.17
            use_approx_neighbors=False,
            random_state=seed,
            verbose=False,
        )
    score = adata.obs["doublet_score"].to_numpy(dtype=np.float64)
    found = adata.uns["scrublet"]
    threshold = float(found.get("threshold", np.nan))
    detectable = float((found["doublet_scores_sim"] > threshold).mean())
    return LaneCalls(
        probability=score,
        is_doublet=score > threshold,
        threshold=threshold,
        epochs=0,
        converged=detectable >= _LEAST_DETECTABLE,
        curves=pd.DataFrame(),
        note=_describe(threshold, detectable),
    )


def _describe(threshold: float, detectable: float) -> str:
    """Tell what is wrong with a threshold; nothing if it is fine."""
    if np.isnan(threshold):
        return "Scrublet found no threshold between the scores; no doublet is removed"
    if detectable < _LEAST_DETECTABLE:
        return (
            f"only {detectable:.0%} of the simulated doublets lie above Scrublet's threshold of "
            f"{threshold:.2f}; it misses most doublets"
        )
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep scanpy's chatter off standard output and error."""
    verbosity = scanpy.settings.verbosity
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        scanpy.settings.verbosity = "error"
        try:
            yield
        finally:
            scanpy.settings.verbosity = verbosity
