"""The gate's rules: figures of the challenger against limits, each with its verdict."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from annotary.config import PromotionOptions
from annotary.evaluation.bootstrap import CONFIDENCE, compute_p, find_interval, resample


@dataclass(frozen=True)
class Figures:
    """What evaluate measured of a version.

    Attributes
    ----------
    macro_f1, ece
        Macro-F1 and expected calibration error on its test cells, 0 to 1.
    cells_per_second
        How fast it annotated them.
    bundle_mb
        Size of its files, MB.
    """

    macro_f1: float
    ece: float
    cells_per_second: float
    bundle_mb: float


@dataclass(frozen=True)
class Comparison:
    """Challenger and champion on the same test cells.

    Attributes
    ----------
    challenger, champion
        Macro-F1, 0 to 1.
    low, high
        95 % interval of their difference, by the paired stratified bootstrap.
    p_value
        Two-sided p of no difference.
    per_class
        Support of each label and F1 of both models, ``(n_classes, 3)``.
    n_cells
        Test cells.
    """

    challenger: float
    champion: float
    low: float
    high: float
    p_value: float
    per_class: pd.DataFrame
    n_cells: int

    @property
    def difference(self) -> float:
        """Macro-F1 of the challenger less that of the champion."""
        return self.challenger - self.champion


@dataclass(frozen=True)
class Rule:
    """One rule with its figure.

    Attributes
    ----------
    name
        The option that holds its limit.
    value, limit
        The figure, and what it was held against.
    passed
        Whether the figure keeps the rule.
    says
        The same in words.
    """

    name: str
    value: float
    limit: float
    passed: bool
    says: str


@dataclass(frozen=True)
class Verdict:
    """Whether the champion changes, and why.

    Attributes
    ----------
    promote
        Whether the challenger becomes champion.
    reason
        One sentence with the figures.
    rules
        Every rule that was applied.
    comparison
        The figures of both models; None where there was no champion to compare with.
    """

    promote: bool
    reason: str
    rules: tuple[Rule, ...] = ()
    comparison: Comparison | None = None

    @property
    def table(self) -> pd.DataFrame:
        """The rules as a table, ``(n_rules, 5)``."""
        return pd.DataFrame([asdict(rule) for rule in self.rules])


def compare(
    truth: np.ndarray,
    challenger: np.ndarray,
    champion: np.ndarray,
    *,
    n_draws: int,
    rng: np.random.Generator,
) -> Comparison:
    """Compare the calls of two models on the same cells, by the labels' names.

    A label that only one of the models knows counts for that model alone.

    Parameters
    ----------
    truth, challenger, champion
        True labels and what each model called the cells, ``(n_cells,)``, names.
    n_draws
        Draws of the bootstrap.
    rng
        Source of chance.
    """
    names, flat = np.unique(np.concatenate([truth, challenger, champion]), return_inverse=True)
    codes, *calls = flat.reshape(3, -1)
    drawn = resample(codes, np.stack(calls), n_classes=len(names), n_draws=n_draws, rng=rng)
    differences = drawn.macro_f1[0] - drawn.macro_f1[1]
    low, high = find_interval(differences)
    f1 = np.stack([_measure_f1(codes, of_model, len(names)) for of_model in calls])
    scores = [float(of_model[seen].mean()) for of_model, seen in zip(f1, drawn.counts_in_macro, strict=True)]
    return Comparison(
        challenger=scores[0],
        champion=scores[1],
        low=float(low),
        high=float(high),
        p_value=compute_p(differences),
        per_class=pd.DataFrame(
            {"support": drawn.support, "challenger_f1": f1[0], "champion_f1": f1[1]},
            index=pd.Index(names, name="label"),
        ),
        n_cells=len(codes),
    )


def _measure_f1(codes: np.ndarray, calls: np.ndarray, n_classes: int) -> np.ndarray:
    """Measure the F1 of each label, ``(n_classes,)``; 0 where it is neither true nor called."""
    hits = np.bincount(codes[codes == calls], minlength=n_classes)
    both = np.bincount(codes, minlength=n_classes) + np.bincount(calls, minlength=n_classes)
    return 2 * hits / np.maximum(both, 1)


def judge(figures: Figures, comparison: Comparison | None, limits: PromotionOptions) -> Verdict:
    """Apply every rule; the challenger is promoted if it keeps them all.

    Parameters
    ----------
    figures
        The challenger's.
    comparison
        With the champion; None where there is none.
    limits
        The rules' limits.
    """
    rules = [*_apply_alone(figures, limits)]
    if comparison is not None:
        rules += _apply_beside(comparison, limits)
    broken = [rule.says for rule in rules if not rule.passed]
    said = _describe(figures, comparison)
    return Verdict(
        promote=not broken,
        reason="; ".join([said, *broken]),
        rules=tuple(rules),
        comparison=comparison,
    )


def _describe(figures: Figures, comparison: Comparison | None) -> str:
    """Say how the challenger stands to the champion."""
    if comparison is None:
        return f"no champion yet; challenger's macro-F1 is {figures.macro_f1:.4f}"
    better = "higher" if comparison.difference > 0 else "not higher"
    return (
        f"challenger's macro-F1 {comparison.challenger:.4f} is {better} than the "
        f"champion's {comparison.champion:.4f} on the same {comparison.n_cells} test cells "
        f"(difference {comparison.difference:+.4f}, {CONFIDENCE:.0%} interval {comparison.low:+.4f} to "
        f"{comparison.high:+.4f}, p = {comparison.p_value:.4f})"
    )


def _apply_alone(figures: Figures, limits: PromotionOptions) -> list[Rule]:
    """Apply the rules that need no champion."""
    floors = [
        ("min_macro_f1", figures.macro_f1, "macro-F1 {:.4f} is below {}"),
        ("min_cells_per_second", figures.cells_per_second, "{:.0f} cells a second are fewer than {}"),
    ]
    ceilings = [
        ("max_ece", figures.ece, "calibration error {:.4f} is above {}"),
        ("max_bundle_mb", figures.bundle_mb, "bundle of {:.1f} MB is larger than {}"),
    ]
    rules = []
    for name, value, says in floors + ceilings:
        limit = float(getattr(limits, name))
        passed = value >= limit if name.startswith("min") else value <= limit
        words = f"{name} = {limit:g} is kept" if passed else says.format(value, f"{limit:g}")
        rules.append(Rule(name, value, limit, passed, words))
    return rules


def _apply_beside(comparison: Comparison, limits: PromotionOptions) -> list[Rule]:
    """Apply the rules that hold the challenger against the champion."""
    gain = Rule(
        "min_gain",
        comparison.difference,
        limits.min_gain,
        comparison.difference > limits.min_gain,
        f"the difference {comparison.difference:+.4f} must exceed {limits.min_gain:g}",
    )
    margin = Rule(
        "non_inferiority_margin",
        comparison.low,
        -limits.non_inferiority_margin,
        comparison.low > -limits.non_inferiority_margin,
        f"by chance the challenger could be worse by {max(-comparison.low, 0):.4f}, where "
        f"{limits.non_inferiority_margin:g} is allowed",
    )
    table = comparison.per_class[comparison.per_class["support"] >= limits.min_support]
    drops = table["champion_f1"] - table["challenger_f1"]
    worst = float(drops.max()) if len(drops) else 0.0
    name = str(drops.idxmax()) if len(drops) else ""
    drop = Rule(
        "max_class_drop",
        worst,
        limits.max_class_drop,
        worst <= limits.max_class_drop,
        f"F1 of {name!r} drops by {worst:.4f}, where {limits.max_class_drop:g} is allowed"
        if name
        else f"no label has {limits.min_support} test cells",
    )
    return [gain, margin, drop]
