"""promote: the alias champion moves to the challenger when it is better."""

from dataclasses import dataclass
from datetime import UTC, datetime

from annotary import keys
from annotary.config import CHALLENGER, CHAMPION, PromoteConfig
from annotary.data.dataset import Dataset, read_dataset
from annotary.errors import RegistryError
from annotary.evaluation.comparison import (
    Verdict,
    check_comparable,
    decide,
    evaluate_bundle,
    find_unseen,
)
from annotary.evaluation.metrics import HEADLINE
from annotary.log import say, warn
from annotary.registry import (
    RegisteredVersion,
    find_alias,
    get_version,
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

_LEAST_UNSEEN = 20


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
            challenger = _find_challenger(config)
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


def _find_challenger(config: PromoteConfig) -> RegisteredVersion:
    """Take the version that was named, or the one with the alias challenger."""
    if config.version:
        return get_version(config.model_name, config.version)
    return resolve_alias(config.model_name, CHALLENGER)


def _tell(verdict: Verdict, config: PromoteConfig) -> str:
    """Say what was done, or what would be."""
    if config.mode == "disabled":
        return verdict.reason
    done = {
        ("enabled", True): "promoted",
        ("enabled", False): "kept the champion",
        ("dry_run", True): "would be promoted",
        ("dry_run", False): "would keep the champion",
    }
    return f"{done[config.mode, verdict.promote]}: {verdict.reason}"


def _describe(verdict: Verdict, config: PromoteConfig, before: RegisteredVersion | None) -> str:
    """Write the decision as it is tagged on the challenger's version."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    replaced = f"champion was version {before.number}" if before else "there was no champion"
    return f"{time} {_tell(verdict, config)}; {replaced}"


def refuse_other_cells(model_name: str, dataset: Dataset) -> None:
    """End early where a champion of the same name is for other cells: training would be in vain.

    Raises
    ------
    RegistryError
        If the champion cannot be compared with models of this dataset.
    """
    champion = find_alias(model_name, CHAMPION)
    if champion is not None:
        check_comparable(load(champion.uri), dataset, model_name=model_name)


def _compare(
    challenger: RegisteredVersion, champion: RegisteredVersion | None, config: PromoteConfig
) -> Verdict:
    """Decide by the same test cells; those of the challenger where they differ."""
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
    return _compare_again(challenger, champion, config)


def _compare_again(
    challenger: RegisteredVersion, champion: RegisteredVersion, config: PromoteConfig
) -> Verdict:
    """Measure both on those of the challenger's test cells that the champion has not seen."""
    say(f"champion version {champion.number} was measured on other cells: scoring it again")
    dataset = _read_dataset(challenger)
    bundle = load(champion.uri)
    check_comparable(bundle, dataset, model_name=champion.name)
    if set(bundle.label_names) != set(dataset.record.label_names):
        other = sorted(set(bundle.label_names) ^ set(dataset.record.label_names))
        warn(f"champion and challenger differ in the labels {', '.join(other)}")
    cells = dataset.take(keys.TEST)
    unseen = find_unseen(bundle, cells)
    if unseen.sum() < _LEAST_UNSEEN:
        return Verdict(
            promote=False,
            reason=f"the champion has seen all but {unseen.sum()} of the {len(unseen)} test cells, "
            f"and {_LEAST_UNSEEN} are needed to compare; split the new data by the same seed",
        )
    fair = cells.take_rows(unseen)
    scores = [
        evaluate_bundle(model, dataset, fair, device=config.device).metrics[HEADLINE]
        for model in (load(challenger.uri), bundle)
    ]
    verdict = decide(*scores)
    return Verdict(
        promote=verdict.promote,
        reason=f"{verdict.reason} ({len(fair.codes)} that the champion has not seen)",
    )


def _read_dataset(version: RegisteredVersion) -> Dataset:
    """Read the dataset that a version was evaluated on."""
    dataset = read_dataset(fetch(version.tags.get(DATASET_TAG, "")))
    if dataset.record.dataset_hash != version.tags.get(DATASET_HASH_TAG):
        raise RegistryError(
            f"{version.name} version {version.number}",
            expected=f"its dataset {version.tags.get(DATASET_HASH_TAG, '')[:12]}",
            found=f"{dataset.record.dataset_hash[:12]} at {version.tags.get(DATASET_TAG)}",
            remedy="Run annotary evaluate on the dataset again.",
        )
    return dataset


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
