"""promote: the alias champion moves to the challenger when it is better."""

from dataclasses import dataclass
from datetime import UTC, datetime

from annotary import keys
from annotary.config import CHALLENGER, CHAMPION, PromoteConfig
from annotary.data.dataset import read_dataset
from annotary.errors import RegistryError
from annotary.evaluation.comparison import Verdict, decide, evaluate_bundle
from annotary.evaluation.metrics import HEADLINE
from annotary.log import say
from annotary.registry import (
    RegisteredVersion,
    find_alias,
    load,
    resolve_alias,
    set_alias,
    tag_version,
)
from annotary.tracking import (
    COUNTS_HASH_TAG,
    DATASET_HASH_TAG,
    DATASET_TAG,
    SPLIT_HASH_TAG,
    fetch,
    stage_run,
)

DECISION_TAG = "annotary.promotion"


@dataclass(frozen=True)
class Promotion:
    """What promote decided.

    Attributes
    ----------
    verdict
        Whether the challenger is better, and why.
    champion
        The champion afterwards; None where there is none.
    """

    verdict: Verdict
    champion: RegisteredVersion | None


def promote(config: PromoteConfig) -> Promotion:
    """Compare challenger and champion on the same test cells; move the alias or say why not."""
    with stage_run("promote", config) as run:
        champion = find_alias(config.model_name, CHAMPION)
        if config.mode == "disabled":
            verdict = Verdict(promote=False, reason="promotion is disabled")
        else:
            challenger = resolve_alias(config.model_name, CHALLENGER)
            verdict = _compare(challenger, champion, config)
            moves = verdict.promote and config.mode == "enabled"
            if moves:
                set_alias(challenger, CHAMPION)
            tag_version(challenger, {DECISION_TAG: _describe(verdict, config, champion)})
            champion = challenger if moves else champion
        run.set_tags({DECISION_TAG: verdict.reason})
        run.log_metrics({"promoted": float(verdict.promote and config.mode == "enabled")})
        say(f"promotion ({config.mode}): {_tell(verdict, config)}")
        return Promotion(verdict=verdict, champion=champion)


def _tell(verdict: Verdict, config: PromoteConfig) -> str:
    """Say what was done, or what would be."""
    if config.mode == "disabled":
        return verdict.reason
    would = "would be " if config.mode == "dry_run" else ""
    return f"{would}{'promoted' if verdict.promote else 'kept the champion'}: {verdict.reason}"


def _describe(verdict: Verdict, config: PromoteConfig, before: RegisteredVersion | None) -> str:
    """Write the decision as it is tagged on the challenger's version."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    replaced = f"champion was version {before.number}" if before else "there was no champion"
    return f"{time} {_tell(verdict, config)}; {replaced}"


def _compare(
    challenger: RegisteredVersion, champion: RegisteredVersion | None, config: PromoteConfig
) -> Verdict:
    """Decide, scoring the champion again where it was measured on other cells."""
    score = _read_score(challenger)
    if champion is None:
        return decide(score, None)
    if champion.number == challenger.number:
        return Verdict(promote=False, reason=f"version {champion.number} is champion already")
    same_cells = all(
        champion.tags.get(tag) == challenger.tags.get(tag) for tag in (SPLIT_HASH_TAG, COUNTS_HASH_TAG)
    )
    if same_cells:
        return decide(score, _read_score(champion))
    return decide(score, _score_again(champion, challenger, config))


def _read_score(version: RegisteredVersion) -> float:
    """Read a version's macro-F1 as evaluate tagged it."""
    try:
        return float(version.tags[HEADLINE])
    except (KeyError, ValueError) as error:
        raise RegistryError(
            f"{version.name} version {version.number}",
            expected=f"a tag {HEADLINE!r} with its macro-F1",
            found=repr(version.tags.get(HEADLINE)),
            remedy="Run annotary evaluate on its dataset.",
        ) from error


def _score_again(champion: RegisteredVersion, challenger: RegisteredVersion, config: PromoteConfig) -> float:
    """Measure the champion on the challenger's test cells."""
    say(f"champion version {champion.number} was measured on other cells: scoring it again")
    dataset = read_dataset(fetch(challenger.tags.get(DATASET_TAG, "")))
    if dataset.record.dataset_hash != challenger.tags.get(DATASET_HASH_TAG):
        raise RegistryError(
            f"{challenger.name} version {challenger.number}",
            expected=f"its dataset {challenger.tags.get(DATASET_HASH_TAG, '')[:12]}",
            found=f"{dataset.record.dataset_hash[:12]} at {challenger.tags.get(DATASET_TAG)}",
            remedy="Run annotary evaluate on the dataset again.",
        )
    evaluation = evaluate_bundle(load(champion.uri), dataset, dataset.take(keys.TEST), device=config.device)
    return evaluation.metrics[HEADLINE]
