"""main: the whole way, each stage a child run of one parent run."""

from dataclasses import dataclass
from pathlib import Path

from annotary.config import (
    BaselinesConfig,
    EnsembleConfig,
    EvaluateConfig,
    MainConfig,
    PreprocessConfig,
    PromoteConfig,
    ScoreConfig,
    TransformerConfig,
)
from annotary.data.dataset import read_dataset
from annotary.data.ontology import read_terms
from annotary.log import say
from annotary.models.transformer.device import choose_device
from annotary.scoring.batch import ScoredFile
from annotary.stages.baselines import baselines
from annotary.stages.ensemble import ensemble
from annotary.stages.evaluate import Evaluated, evaluate
from annotary.stages.preprocess import preprocess
from annotary.stages.promote import Promotion, promote, refuse_other_cells
from annotary.stages.score import score
from annotary.stages.transformer import transformer
from annotary.tracking import stage_run


@dataclass(frozen=True)
class Outcome:
    """What the whole way gave.

    Attributes
    ----------
    evaluated
        Candidates with their figures, best first.
    promotion
        What the gate decided.
    scored
        Annotated files; none where there is no champion to annotate with.
    """

    evaluated: list[Evaluated]
    promotion: Promotion
    scored: list[ScoredFile]


def run_pipeline(config: MainConfig) -> Outcome:
    """Preprocess, train baselines and transformer, evaluate, promote, score.

    A stage that fails ends its own run and the parent's as FAILED, with the
    stage's message on both.
    """
    with stage_run("main", config):
        choose_device(config.device)  # a missing GPU is told now, not after the training of others
        if config.ontology:
            read_terms(Path(config.ontology))  # so is a wrong table
        prepared = preprocess(config.part(PreprocessConfig))
        if config.mode != "disabled":
            refuse_other_cells(config.model_name, read_dataset(prepared.path))
        dataset = prepared.address
        own = {"dataset": dataset, "read_timeout": 0.0}  # this run wrote it: no need to look at it first
        candidates = baselines(config.part(BaselinesConfig, **own))
        candidates.append(transformer(config.part(TransformerConfig, **own)))
        members = ",".join(candidate.model_id for candidate in candidates)
        voting = ensemble(config.part(EnsembleConfig, **own, candidates=members))
        candidates += [voting] if voting else []
        model_ids = ",".join(candidate.model_id for candidate in candidates)
        evaluated = evaluate(config.part(EvaluateConfig, **own, candidates=model_ids))
        promotion = promote(config.part(PromoteConfig, version=evaluated[0].version.number))
        if promotion.champion is None:
            say(f"nothing is annotated: there is no champion and mode is {config.mode}")
            return Outcome(evaluated=evaluated, promotion=promotion, scored=[])
        scored = score(
            config.part(
                ScoreConfig,
                input=",".join(str(source.h5ad) for source in prepared.sources),
                depth_key=prepared.columns.depth,
                ontology="",  # the model has the terms
            )
        )
        return Outcome(evaluated=evaluated, promotion=promotion, scored=scored.annotated)
