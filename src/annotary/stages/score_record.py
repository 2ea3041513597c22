"""What score tells of its files: to the person who started it, and to MLflow."""

from annotary.log import say, warn
from annotary.scoring.batch import ScoredFile
from annotary.scoring.outcome import Outcome
from annotary.tracking import StageRun


def tell(one: ScoredFile) -> None:
    """Tell what became of a file that is not known from before."""
    if one.status == "failed":
        warn(one.reason)
    elif one.status == "waiting":
        say(f"{one.source} waits for the next run: {one.reason}")
    elif one.annotated is not None:
        for moved in one.annotated.moved:
            warn(f"{one.source}: kept what was there: {moved}")
        for message in one.annotated.cells.warnings:
            warn(message)
        n_low = one.details["n_low_information"]
        if n_low:
            warn(
                f"{one.source}: {n_low} of {one.n_cells} cells express fewer panel genes "
                "than any training cell"
            )
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
    run.log_metrics(outcome.measure())
    run.log_table(outcome.tabulate(), "files", index=False)
