"""promote: the alias champion moves to the challenger when it keeps every rule of the gate."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import numpy as np

from annotary import keys
from annotary.config import CHALLENGER, CHAMPION, PromoteConfig
from annotary.data.dataset import Dataset, read_dataset
from annotary.errors import BundleError, RegistryError, StoreError
from annotary.evaluation.comparison import check_comparable, find_unseen
from annotary.evaluation.gate import Comparison, Figures, Verdict, compare, judge
from annotary.ledger import KEPT, PROMOTED, WOULD_KEEP, WOULD_PROMOTE, Decision, Ledger
from annotary.log import say, warn
from annotary.promotions import EVALUATION_TAG, anchor, append, catch_up, describe_hashes, read_ledger, settle
from annotary.registry import (
    RegisteredVersion,
    find_alias,
    get_version,
    resolve_alias,
    tag_version,
)
from annotary.stages.evaluation_check import FIGURES, check_evaluation
from annotary.stages.held_out_calls import ask_again, read_calls
from annotary.tracking import (
    COUNTS_HASH_TAG,
    DATASET_HASH_TAG,
    DATASET_TAG,
    SPLIT_HASH_TAG,
    StageRun,
    fetch,
    stage_run,
    to_json,
)
from annotary.version_check import fetch_checked, load_version

DECISION_TAG = "annotary.promotion"
RULES_TAG = "annotary.promotion_rules"

_LEAST_UNSEEN = 20
_MOST_TRIES = 10


@dataclass(frozen=True)
class Promotion:
    """What promote decided.

    Attributes
    ----------
    verdict
        Whether the challenger keeps every rule, and why.
    champion
        The champion afterwards; None where there is none.
    """

    verdict: Verdict
    champion: RegisteredVersion | None


def promote(config: PromoteConfig) -> Promotion:
    """Hold the challenger against the rules and the champion; move the alias or say why not.

    Where another process decides at the same time, the one that comes second
    starts again with the champion that it then finds.
    """
    with stage_run("promote", config) as run:
        if config.mode == "disabled":
            done = Promotion(
                verdict=Verdict(promote=False, reason="promotion is disabled"),
                champion=find_alias(config.model_name, CHAMPION),
            )
            _record(run, done.verdict, config)
            return done
        challenger = _find_challenger(config)
        if challenger is None:
            champion = find_alias(config.model_name, CHAMPION)
            verdict = Verdict(promote=False, reason="there is no challenger")
            _record(run, verdict, config)
            return Promotion(verdict=verdict, champion=champion)
        return _decide(run, challenger, config)


def _decide(run: StageRun, challenger: RegisteredVersion, config: PromoteConfig) -> Promotion:
    """Compare, write the decision into the ledger, and bring the aliases in step with it."""
    for _ in range(_MOST_TRIES):
        ledger = catch_up(config.model_name)
        champion = get_version(config.model_name, ledger.champion) if ledger.champion else None
        fetch_checked(challenger)
        check_evaluation(challenger, ledger)
        if champion is None and ledger.lost_champion:
            verdict = _compare_with_former(challenger, ledger, config)
        else:
            verdict = _compare(challenger, champion, config)
        if append(ledger, _make_decision(verdict, ledger, challenger, run, config)):
            break
        say("another process decided about this model meanwhile: starting again")
    else:
        raise RegistryError(
            f"registered model {config.model_name!r}",
            expected="its champion to rest during a promotion",
            found=f"another decision in each of {_MOST_TRIES} tries",
            remedy="Look at annotary ledger, then promote again.",
        )
    anchor(config.model_name, settle(config.model_name))
    _record(run, verdict, config)
    replaced = f"champion was version {champion.number}" if champion else "there was no champion"
    time = datetime.now(UTC).isoformat(timespec="seconds")
    tags = {DECISION_TAG: f"{time} {_tell(verdict, config)}; {replaced}"}
    if verdict.rules:
        tags[RULES_TAG] = to_json({rule.name: asdict(rule) for rule in verdict.rules})
    tag_version(challenger, tags)
    moved = verdict.promote and config.mode == "enabled"
    return Promotion(verdict=verdict, champion=challenger if moved else champion)


def _find_challenger(config: PromoteConfig) -> RegisteredVersion | None:
    """Take the version that was named, or the one with the alias challenger.

    None where there is a champion and no challenger: nothing new was evaluated.
    """
    if config.version:
        return get_version(config.model_name, config.version)
    found = find_alias(config.model_name, CHALLENGER)
    if found is None and find_alias(config.model_name, CHAMPION) is None:
        return resolve_alias(config.model_name, CHALLENGER)
    return found


def _make_decision(
    verdict: Verdict, ledger: Ledger, challenger: RegisteredVersion, run: StageRun, config: PromoteConfig
) -> Decision:
    """Write down a decision as the ledger keeps it."""
    actions = {
        ("enabled", True): PROMOTED,
        ("enabled", False): KEPT,
        ("dry_run", True): WOULD_PROMOTE,
        ("dry_run", False): WOULD_KEEP,
    }
    action = actions[config.mode, verdict.promote]
    return Decision(
        action=action,
        before=ledger.champion,
        after=challenger.number if action == PROMOTED else ledger.champion,
        candidate=challenger.number,
        reason=verdict.reason,
        rules=[
            {"name": rule.name, "value": round(rule.value, 6), "limit": rule.limit, "passed": rule.passed}
            for rule in verdict.rules
        ],
        hashes=describe_hashes(challenger),
        run_id=run.run_id,
    )


def _tell(verdict: Verdict, config: PromoteConfig) -> str:
    """Say what was done, or what would be."""
    done = {
        ("enabled", True): f"{PROMOTED}: ",
        ("enabled", False): f"{KEPT}: ",
        ("dry_run", True): f"{WOULD_PROMOTE}: ",
        ("dry_run", False): f"{WOULD_KEEP}: ",
    }
    return f"{done.get((config.mode, verdict.promote), '')}{verdict.reason}"


def _record(run: StageRun, verdict: Verdict, config: PromoteConfig) -> None:
    """Log the figures and verdict of every rule, and tell the outcome."""
    run.set_tags({DECISION_TAG: verdict.reason})
    metrics = {"promoted": float(verdict.promote and config.mode == "enabled")}
    for rule in verdict.rules:
        metrics |= {f"gate.{rule.name}": rule.value, f"gate.{rule.name}.passed": float(rule.passed)}
    if verdict.rules:
        run.log_table(verdict.table, "gate", index=False)
    compared = verdict.comparison
    if compared is not None:
        run.log_table(compared.per_class, "champion_and_challenger")
        metrics |= {
            "challenger_macro_f1": compared.challenger,
            "champion_macro_f1": compared.champion,
            "difference": compared.difference,
            "difference_low": compared.low,
            "difference_high": compared.high,
            "difference_p": compared.p_value,
        }
    run.log_metrics(metrics)
    say(f"promotion ({config.mode}): {_tell(verdict, config)}")


def refuse_other_cells(model_name: str, dataset: Dataset) -> None:
    """End early where a champion of the same name is for other cells: training would be in vain.

    Raises
    ------
    RegistryError
        If the champion cannot be compared with models of this dataset.
    """
    champion = find_alias(model_name, CHAMPION)
    if champion is not None:
        check_comparable(load_version(champion), dataset, model_name=model_name)


def _compare(
    challenger: RegisteredVersion, champion: RegisteredVersion | None, config: PromoteConfig
) -> Verdict:
    """Judge the challenger by its own figures and, on the same test cells, beside the champion."""
    figures = _read_figures(challenger)
    if champion is None:
        return judge(figures, None, config)
    if champion.number == challenger.number:
        return Verdict(promote=False, reason=f"version {champion.number} is champion already")
    same_cells = all(
        champion.tags.get(tag) == challenger.tags.get(tag) for tag in (SPLIT_HASH_TAG, COUNTS_HASH_TAG)
    )
    if not same_cells or EVALUATION_TAG not in champion.tags:
        return _compare_again(challenger, champion, config)
    check_evaluation(champion, read_ledger(champion.name))
    mine = read_calls(challenger)
    theirs = read_calls(champion).take(mine.cell_ids)
    return judge(figures, _bootstrap(mine.truth, mine.calls, theirs.calls, config), config)


def _compare_with_former(challenger: RegisteredVersion, ledger: Ledger, config: PromoteConfig) -> Verdict:
    """Judge the challenger where the champion was deleted: beside the newest former one that is left.

    Where both cannot be compared, it is judged by its own figures: that must not leave nobody champion.
    """
    if ledger.previous in ("", challenger.number):
        return _compare(challenger, None, config)
    former = get_version(ledger.name, ledger.previous)
    said = (
        f"version {ledger.lost_champion} was deleted, and version {former.number} is the newest champion left"
    )
    try:
        verdict = _compare(challenger, former, config)
    except StoreError:
        raise
    except (BundleError, RegistryError) as error:
        warn(f"{said}, but cannot be compared: {error}")
        return _compare(challenger, None, config)
    way = "" if verdict.promote else "; annotary rollback makes that one champion again"
    return replace(verdict, reason=f"{said}: {verdict.reason}{way}")


def _bootstrap(
    truth: np.ndarray, challenger: np.ndarray, champion: np.ndarray, config: PromoteConfig
) -> Comparison:
    """Compare by the paired stratified bootstrap."""
    rng = np.random.default_rng(config.seed)
    return compare(truth, challenger, champion, n_draws=config.n_draws, rng=rng)


def _compare_again(
    challenger: RegisteredVersion, champion: RegisteredVersion, config: PromoteConfig
) -> Verdict:
    """Compare on those of the challenger's test cells that the champion has not seen."""
    say(f"champion version {champion.number} was not measured on these test cells: scoring it again")
    dataset = _read_dataset(challenger)
    bundle = load_version(champion)
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
    mine = read_calls(challenger).take(fair.cell_ids)
    theirs = ask_again(champion, dataset, fair, device=config.device)
    verdict = judge(_read_figures(challenger), _bootstrap(mine.truth, mine.calls, theirs, config), config)
    return Verdict(
        promote=verdict.promote,
        reason=f"{verdict.reason} ({len(fair.codes)} that the champion has not seen)",
        rules=verdict.rules,
        comparison=verdict.comparison,
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


def _read_figures(version: RegisteredVersion) -> Figures:
    """Read a version's figures as evaluate tagged them."""
    try:
        return Figures(*(float(version.tags[name]) for name in FIGURES))
    except (KeyError, ValueError) as error:
        raise RegistryError(
            f"{version.name} version {version.number}",
            expected=f"the tags {', '.join(FIGURES)} with its figures",
            found=", ".join(f"{name} = {version.tags.get(name)!r}" for name in FIGURES),
            remedy="Run annotary evaluate on its dataset.",
        ) from error
