"""The transformer's search: which options its networks are trained with."""

from annotary.config import TransformerConfig
from annotary.data.dataset import DatasetRecord
from annotary.models.transformer.search import NetworkSearch, Train
from annotary.network_options import NetworkOptions
from annotary.stages.tuning_record import log_search, logging_trials, name_study
from annotary.tracking import StageRun, find_study_storage

_KIND = "transformer"


def choose_network(
    config: TransformerConfig, record: DatasetRecord, train: Train, run: StageRun
) -> TransformerConfig:
    """Search, where trials are asked for, and give the configuration of the best.

    Its macro-F1 is that of the validation cells, which also stop the training and calibrate the
    network: of many trials the best looks better than it is. The test cells are not looked at.
    """
    if not config.network_trials:
        return config
    search = NetworkSearch(
        config.part(NetworkOptions), train, seed=config.seed, is_shape_fixed=bool(config.init_from)
    )
    tuned = search.run(
        name_study(_KIND, record, search.space_hash, seed=config.seed, run=run, warm_start=config.warm_start),
        config.storage or find_study_storage(),
        n_trials=config.network_trials,
        timeout=config.timeout,
        on_trial=logging_trials(run, _KIND, part="epoch"),
    )
    log_search(run, _KIND, tuned, part="epoch", score="Macro-F1 of validation cells")
    return config.model_copy(update=tuned.best.params)
