"""What score tells of its files: to the person who started it, and to MLflow."""

from datetime import UTC, datetime

import pandas as pd

from annotary import __version__
from annotary.evaluation.scoring_report import FileRow, FlagRow, GeneRow, LabelRow, make_scoring_report
from annotary.log import say, warn
from annotary.scoring.batch import ScoredFile
from annotary.scoring.detection import GeneShift
from annotary.scoring.outcome import POOR_QUALITY, Outcome
from annotary.scoring.tally import Tally
from annotary.stages.scoring_picture import draw_scored_cells
from annotary.tracking import StageRun

DRIFT_TAG = "drift"

_FLAWS = {
    "n_low_information": "express fewer panel genes than any training cell",
    "n_poor_quality": "fail the quality thresholds of the training cells",
}
_MOST_GENES = 20


def tell(one: ScoredFile) -> None:
    """Tell what became of a file that is not known from before."""
    if one.status == "failed":
        warn(one.reason)
    elif one.status == "waiting":
        say(f"{one.source} waits for the next run: {one.reason}")
    elif one.annotated is not None:
        for moved in one.annotated.moved:
            warn(f"{one.source}: kept what was there: {moved}")
        for message in one.warnings:
            warn(message)
        for name, flaw in _FLAWS.items():
            n_flawed = one.details.get(name, 0)
            if n_flawed:
                warn(f"{one.source}: {n_flawed} of {one.n_cells} cells {flaw}")
        say(f"annotated {one.n_cells} cells: {one.target}")


def record_outcome(run: StageRun, outcome: Outcome) -> None:
    """Say in all what was done, and log it."""
    n_known = outcome.count("known")
    if n_known:
        is_all = n_known == len(outcome.files)
        say(
            f"{n_known} files were annotated with {outcome.model} before"
            + (": nothing to do" if is_all else "")
        )
    drifted = _describe_drift(outcome)
    if drifted:
        warn(drifted)
    run.set_tags({DRIFT_TAG: outcome.drift.level})
    run.log_metrics(outcome.measure())
    run.log_table(outcome.tabulate(), "files", index=False)
    if outcome.tally is not None:
        _record_cells(run, outcome, outcome.tally)


def _describe_drift(outcome: Outcome) -> str:
    """Say which figures are beyond their limits; empty where none is."""
    told = "; ".join(
        f"{figure.title} {figure.value:.3f} ({figure.level} from {getattr(figure, figure.level):.3f})"
        for figure in outcome.drift.figures
        if figure.value is not None and figure.level in ("warn", "alert")
    )
    return f"the cells differ from the training cells: {told}" if told else ""


def _list_notes(outcome: Outcome) -> list[str]:
    """List what the run's page warns of."""
    notes = [_describe_drift(outcome)]
    if outcome.failed:
        notes.append(f"{len(outcome.failed)} of {len(outcome.files)} files could not be annotated.")
    return [f"{note[0].upper()}{note[1:]}" for note in notes if note]


def _record_cells(run: StageRun, outcome: Outcome, tally: Tally) -> None:
    """Log the labels of the cells that were annotated, and the run's page, ``scoring.html``."""
    expected = outcome.reference.label_shares
    labels = [
        LabelRow(name, count, count / tally.n_cells, None if expected is None else float(expected[code]))
        for code, (name, count) in enumerate(zip(tally.label_names, tally.label_counts, strict=True))
    ]
    files = [
        FileRow(
            source=one.source,
            status=one.status,
            n_cells=one.n_cells,
            mean_confidence=one.details.get("mean_confidence"),
            seconds=one.seconds,
            reason=one.reason or " ".join(one.warnings),
        )
        for one in outcome.files
    ]
    genes = outcome.drift.genes
    if genes:
        run.log_table(genes.table, "gene_detection")
    sample = outcome.survey.sample if outcome.survey else None
    page = make_scoring_report(
        f"{tally.n_cells:,} cells annotated with {outcome.model}",
        {
            "Model": outcome.model,
            "Run": outcome.run_id,
            "Drift": outcome.drift.level,
            "annotary": __version__,
            "Time": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        labels=labels,
        flags=_list_flags(outcome, tally),
        confidence=tally.confidence,
        held_out=() if outcome.reference.confidence is None else outcome.reference.confidence.tolist(),
        drift=outcome.drift.figures,
        genes=_list_genes(genes) if genes else (),
        umap=draw_scored_cells(sample, tally.label_names) if sample else None,
        files=files,
        notes=_list_notes(outcome),
    )
    run.log_text(page, "scoring.html")
    run.log_table(pd.DataFrame(labels), "labels", index=False)


def _list_flags(outcome: Outcome, tally: Tally) -> list[FlagRow]:
    """List the cells that the page says to look at; a model may know no thresholds of quality."""
    figures = outcome.measure()
    counts = {
        "have a label that is too unsure (unassigned)": tally.n_unassigned,
        "are unlike the training cells (out of distribution)": tally.n_ood,
        _FLAWS["n_low_information"]: tally.n_low_information,
    }
    if POOR_QUALITY in figures:
        counts[_FLAWS["n_poor_quality"]] = int(figures[POOR_QUALITY])
    return [FlagRow(name, count, count / max(tally.n_cells, 1)) for name, count in counts.items()]


def _list_genes(shift: GeneShift) -> list[GeneRow]:
    """List the genes that the page shows: the shifted ones that are furthest off."""
    shown = shift.table.loc[shift.list_shifted(_MOST_GENES)]
    return [
        GeneRow(str(gene), float(expected), float(found))
        for gene, expected, found in zip(shown.index, shown["in_training"], shown["found"], strict=True)
    ]
