"""What training stages share: a model's input spec and its bundle."""

import numpy as np
import pandas as pd

from annotary import __version__, keys
from annotary.data.counts import count_genes_per_cell
from annotary.data.dataset import Dataset, DatasetTables
from annotary.data.hashing import hash_cell_ids
from annotary.models.base import Annotator
from annotary.models.bundle import Bundle, Provenance
from annotary.quality.prepare import InputSpec
from annotary.tracking import to_json


def make_spec(dataset: Dataset, panel: pd.Index) -> InputSpec:
    """Fix how cells are prepared for a panel ``(n_panel,)``, from the training cells."""
    training = dataset.take(keys.TRAIN)
    spec = InputSpec(gene_ids=tuple(panel), id_type=dataset.record.id_type, min_panel_genes=0)
    expressed = count_genes_per_cell(
        spec.prepare(training.counts, dataset.var.index, depth=training.depth).counts
    )
    return InputSpec(
        gene_ids=spec.gene_ids, id_type=spec.id_type, min_panel_genes=max(1, int(expressed.min()))
    )


def make_bundle(
    model: Annotator, spec: InputSpec, dataset: DatasetTables, *, run_id: str, settings: dict[str, object]
) -> Bundle:
    """Put a trained model together with what scoring needs and what it was made from."""
    seen = dataset.obs[dataset.obs[keys.SPLIT] != keys.TEST]
    return Bundle(
        model=model,
        spec=spec,
        label_names=dataset.record.label_names,
        provenance=Provenance(
            dataset_hash=dataset.record.dataset_hash,
            split_hash=dataset.record.split_hash,
            run_id=run_id,
            config=to_json(settings),
            package_version=__version__,
        ),
        seen_cells=hash_cell_ids(seen.index, seen[keys.DEPTH].to_numpy(dtype=np.float64)),
    )
