"""What the transformer's networks begin with: a pretrained network, or nothing."""

from collections.abc import Callable

import pandas as pd

from annotary.config import TransformerConfig
from annotary.log import say
from annotary.models.transformer.config import NetworkConfig
from annotary.models.transformer.pretrained import PretrainedNetwork, Weights
from annotary.network_registry import fetch_network
from annotary.tracking import StageRun

Start = Callable[[NetworkConfig, int], Weights | None]
"""Gives the first weights of a network of some shape and seed; None where all are drawn."""

INIT_RUN_TAG = "annotary.init_run_id"


def read_start(config: TransformerConfig, panel: pd.Index, run: StageRun) -> Start:
    """Read the pretrained network that is named, once for all networks and trials.

    Its shape and genes are checked at once, so that no search begins in vain.
    """
    if not config.init_from:
        return lambda shape, seed: None
    pretrained = PretrainedNetwork.load(fetch_network(config.init_from))
    wanted = NetworkConfig.from_options(config, n_genes=len(panel), n_classes=1)
    _, n_known = pretrained.carry_over(wanted, panel, seed=config.seed)
    say(
        f"transformer: begins with {config.init_from}, which knows {n_known} of the {wanted.n_attended} genes"
        " that attend"
    )
    run.log_metrics({"genes_carried_over": float(n_known)})
    run.set_tags({INIT_RUN_TAG: pretrained.origin.get("run_id", "")})
    return lambda shape, seed: pretrained.carry_over(shape, panel, seed=seed)[0]
