"""The search itself: cross-validated trials of a baseline, its best fitted to all cells and calibrated."""

import contextlib
import json
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np
import optuna
from joblib import effective_n_jobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import f1_score
from threadpoolctl import threadpool_limits

from annotary.models.baselines import Baseline, BaselineAnnotator, Params
from annotary.models.calibration import Calibration, calibrate
from annotary.models.folds import Fold, FoldedCells
from annotary.models.panels import PanelChooser, Preparation, PreparationSpace
from annotary.models.tuning.records import TrialRecord
from annotary.models.tuning.space import hash_space
from annotary.models.tuning.study import DEFAULT_HEARTBEAT, Heartbeat, open_study
from annotary.models.tuning.trials import TrialScores, TuningResult, do_trials, find_twin, repeat_trial

_PREPARATION = ("panel_method", "n_top_genes", "target_sum")


@dataclass(frozen=True)
class FittedBaseline:
    """A baseline fitted to all cells.

    Attributes
    ----------
    model
        The calibrated model.
    columns
        Ascending positions of its panel, ``(n_panel,)``; None for all genes.
    preparation
        How its cells are prepared.
    calibration
        How it was calibrated.
    """

    model: BaselineAnnotator
    columns: np.ndarray | None
    preparation: Preparation
    calibration: Calibration


class Search:
    """Trials of one baseline on the same folds.

    Parameters
    ----------
    baseline
        What is tuned.
    cells
        Training and validation cells.
    panels
        Chooses panels of these cells.
    space
        Ways to prepare cells.
    seed
        Seed of the sampler and of every fit.
    n_jobs
        Jobs of a fit; -1 for all processors.
    """

    def __init__(
        self,
        baseline: Baseline,
        cells: FoldedCells,
        panels: PanelChooser,
        space: PreparationSpace,
        *,
        seed: int,
        n_jobs: int = -1,
    ) -> None:
        self.baseline = baseline
        self.cells = cells
        self._panels = panels
        self._space = space
        self._seed = seed
        self._n_jobs = n_jobs
        self._best_scores: tuple[float, str, np.ndarray] | None = None

    @property
    def first_trials(self) -> list[Params]:
        """Trials to begin with: the notebook's on the dataset's panel, then a good start."""
        prepared = asdict(self._space.first)
        trials = [prepared | self.baseline.notebook, prepared | self.baseline.start]
        choices = dict(
            zip(
                _PREPARATION,
                (self._space.panel_methods, self._space.n_top_genes, self._space.target_sums),
                strict=True,
            )
        )
        for trial in trials:
            for name, allowed in choices.items():
                if trial[name] not in allowed:
                    trial[name] = prepared[name]
        return trials if trials[0] != trials[1] else trials[:1]

    @property
    def space_hash(self) -> str:
        """Hash of the search space: trials of another space are of another study."""
        return hash_space(self._suggest, self.first_trials[0])

    def run(
        self,
        name: str,
        storage: str,
        *,
        n_trials: int,
        timeout: float = 0,
        on_trial: Callable[[TrialRecord], None] = lambda record: None,
        heartbeat: Heartbeat = DEFAULT_HEARTBEAT,
    ) -> TuningResult:
        """Search until the study has ``n_trials``, or the time is over.

        Parameters
        ----------
        name, storage, heartbeat
            As :func:`open_study` takes them.
        n_trials, timeout
            As :func:`work_on` takes them.
        on_trial
            Called as each trial of this process ends.
        """
        study = open_study(
            name,
            storage,
            first_trials=self.first_trials,
            n_trials=n_trials,
            seed=self._seed,
            heartbeat=heartbeat,
        )
        return do_trials(
            study,
            self.score,
            title=self.baseline.kind,
            n_trials=n_trials,
            timeout=timeout,
            on_trial=on_trial,
        )

    def score(self, trial: optuna.Trial) -> float:
        """Score a trial by cross-validation, reporting the mean so far after each fold.

        Returns
        -------
        Mean macro-F1 over the folds.

        Raises
        ------
        optuna.TrialPruned
            If the pruner gives it up, or another process runs the same trial.
        """
        params, preparation = self._suggest(trial)
        earlier = find_twin(trial, key := _describe(params, preparation))
        if earlier is not None:
            return repeat_trial(trial, earlier)
        told = TrialScores(trial)
        held_out = np.empty((self.cells.n_cells, self.cells.n_classes))
        with contextlib.closing(self._score_folds(params, preparation)) as folds:
            for fold, scored in enumerate(folds):
                rows = self.cells.list_held_out(fold)
                held_out[rows] = scored
                score = float(f1_score(self.cells.codes[rows], scored.argmax(axis=1), average="macro"))
                value = float(np.mean([*told.scores, score]))
                told.tell(score, value=value)
                if fold + 1 < self.cells.n_folds and trial.should_prune():
                    raise optuna.TrialPruned
        if self._best_scores is None or value > self._best_scores[0]:
            self._best_scores = value, key, held_out
        return value

    def fit(self, params: Params) -> FittedBaseline:
        """Fit to all cells with the hyperparameters of a trial, and calibrate.

        The temperature is fitted to scores that the cells got in cross-validation, from models that had
        not seen them.
        """
        preparation = Preparation(**{name: params[name] for name in _PREPARATION})
        own = {name: value for name, value in params.items() if name not in _PREPARATION}
        codes = self.cells.codes[: self.cells.n_cells]
        calibration = calibrate(self._get_held_out(own, preparation), codes, self.cells.fold_of_cell)
        columns = self._panels.choose(preparation, None)
        log_expr = self.cells.get_all(columns, target_sum=preparation.target_sum)
        with _fitting():
            estimator = self.baseline.fit(log_expr, codes, own, seed=self._seed, n_jobs=self._n_jobs)
        model = self.baseline.to_annotator(
            estimator, target_sum=preparation.target_sum, n_classes=self.cells.n_classes
        )
        return FittedBaseline(
            model=replace(model, temperature=calibration.temperature),  # type: ignore[type-var]
            columns=columns,
            preparation=preparation,
            calibration=calibration,
        )

    def _suggest(self, trial: "optuna.Trial | optuna.trial.FixedTrial") -> tuple[Params, Preparation]:
        """Draw the model's hyperparameters and the preparation of cells."""
        preparation = Preparation(
            panel_method=trial.suggest_categorical("panel_method", self._space.panel_methods),
            n_top_genes=trial.suggest_categorical("n_top_genes", self._space.n_top_genes),
            target_sum=trial.suggest_categorical("target_sum", self._space.target_sums),
        )
        return self.baseline.suggest(trial), preparation  # type: ignore[arg-type]

    def _score_folds(self, params: Params, preparation: Preparation) -> Generator[np.ndarray]:
        """Fit to all folds but one and score the cells of that one, ``(n_held_out, n_classes)``, in order.

        Folds are cut out one after another, since they share their values.
        """
        n_at_once = effective_n_jobs(self._n_jobs) if self.baseline.folds_at_once else 1
        pool = ThreadPoolExecutor(n_at_once)
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            with _fitting():
                for number in range(self.cells.n_folds):
                    columns = self._panels.choose(preparation, number)
                    fold = self.cells.get_fold(number, columns, target_sum=preparation.target_sum)
                    waiting.append(pool.submit(self._fit_fold, fold, params, preparation.target_sum))
                    if len(waiting) == n_at_once:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _fit_fold(self, fold: Fold, params: Params, target_sum: float) -> np.ndarray:
        """Fit to the other folds and score the cells of one, ``(n_held_out, n_classes)``."""
        estimator = self.baseline.fit(
            fold.fitted, fold.fitted_codes, params, seed=self._seed, n_jobs=self._n_jobs
        )
        model = self.baseline.to_annotator(estimator, target_sum=target_sum, n_classes=self.cells.n_classes)
        return model.score(fold.held_out)

    def _get_held_out(self, params: Params, preparation: Preparation) -> np.ndarray:
        """Score each cell by a model that was not fitted to it, ``(n_cells, n_classes)``.

        Those of this process's best trial are kept; of another process's they are made again.
        """
        if self._best_scores is not None and self._best_scores[1] == _describe(params, preparation):
            return self._best_scores[2]
        return np.vstack(list(self._score_folds(params, preparation)))


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """Fit with one BLAS thread, whose vectors are short, and without a word of fits that stop early.

    Several BLAS threads made a linear fit 8 to 90 times slower on a busy machine of two cores, and another
    number of threads gives another last digit.
    """
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _describe(params: Params, preparation: Preparation) -> str:
    """Name what a trial does; a way to choose all genes is no choice."""
    described = asdict(preparation)
    if preparation.n_top_genes == 0:
        described.pop("panel_method")
    return json.dumps(described | params, sort_keys=True)
