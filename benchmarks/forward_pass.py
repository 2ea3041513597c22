"""Label a file's cells with a transformer, and time its forward pass alone: the least there is to do.

Run as ``python benchmarks/forward_pass.py FILE MODEL_URI``; it prints as JSON the seconds that the network
took, and those of all: reading, bringing genes to the panel, tokens and batches too.
"""

import argparse
import json
import time
from pathlib import Path

import anndata
import numpy as np
import torch
from scipy.sparse import csr_matrix
from transformer_speed import plan_batches

from annotary import registry
from annotary.models.transformer.batches import make_batch
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.tokens import tokenize
from annotary.quality.prepare import PreparedCells

CHUNK_CELLS = 2_048


def time_forward_pass(annotator: TransformerAnnotator, cells: PreparedCells) -> float:
    """Label cells in batches that are made before: seconds of the network alone."""
    tokens, seconds = tokenize(annotator.config, cells), 0.0
    for rows in plan_batches(annotator.config, tokens):
        batch = make_batch(tokens, rows, annotator.config)
        for network in annotator.networks:
            started = time.perf_counter()
            with torch.inference_mode():
                network.eval()(batch)
            seconds += time.perf_counter() - started
    return seconds


def main() -> None:
    """Label the cells and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("model")
    options = parser.parse_args()
    bundle = registry.load(options.model)
    started, seconds = time.perf_counter(), 0.0
    adata = anndata.read_h5ad(options.path, backed="r")
    for start in range(0, adata.n_obs, CHUNK_CELLS):
        counts = csr_matrix(adata.X[start : start + CHUNK_CELLS], dtype=np.float32)
        depth = counts.sum(axis=1, dtype=np.float64).A1
        cells = bundle.spec.prepare(counts, adata.var_names, depth=depth)
        seconds += time_forward_pass(bundle.model, cells)
    print(json.dumps({"seconds": seconds, "in_all": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
