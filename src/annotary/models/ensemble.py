"""Several models in one: a weighted mean of what they say (soft vote)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from annotary.models.base import Annotator
from annotary.models.confidence.held_out import scale_probabilities
from annotary.models.kinds import find_class
from annotary.quality.prepare import PreparedCells

_MEMBERS = "ensemble.json"
_COLUMNS = "columns"
_STEPS = 200
_NO_CHANGE = 1e-6


@dataclass(frozen=True)
class Member:
    """A model that has a vote.

    Attributes
    ----------
    model
        The trained model.
    columns
        Positions of its panel's genes in the panel of all, in its own order, ``(n_panel,)``.
    temperature
        What the logarithm of its probabilities is divided by before the vote.
    weight
        Weight of its vote; those of all members add up to 1.
    """

    model: Annotator
    columns: np.ndarray
    temperature: float
    weight: float


class EnsembleAnnotator(Annotator):
    """A weighted mean of the probabilities of several models."""

    kind: ClassVar[str] = "ensemble"

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)

    def predict_proba(self, cells: PreparedCells, *, device: str = "auto") -> np.ndarray:  # noqa: D102
        said = []
        for member in self.members:
            own = PreparedCells(cells.counts[:, member.columns], cells.depth)
            probabilities = member.model.predict_proba(own, device=device)
            said.append(scale_probabilities(probabilities, member.temperature))
        return vote(said, np.array([member.weight for member in self.members]))

    def save(self, folder: Path) -> None:
        """Write ``ensemble.json``, and a folder for each member."""
        members = [
            {"kind": one.model.kind, "temperature": one.temperature, "weight": one.weight}
            for one in self.members
        ]
        (folder / _MEMBERS).write_text(json.dumps(members, indent=1))
        for number, member in enumerate(self.members):
            own = folder / f"member_{number}"
            own.mkdir()
            member.model.save(own)
            save_file({_COLUMNS: member.columns.astype(np.int64)}, folder / f"member_{number}.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:  # noqa: D102
        members = json.loads((folder / _MEMBERS).read_text())
        return cls(
            [
                Member(
                    model=find_class(one["kind"]).load(folder / f"member_{number}"),
                    columns=load_file(folder / f"member_{number}.safetensors")[_COLUMNS],
                    temperature=one["temperature"],
                    weight=one["weight"],
                )
                for number, one in enumerate(members)
            ]
        )


def vote(said: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Average the probabilities of models.

    Parameters
    ----------
    said
        Probabilities of each model, ``(n_cells, n_classes)``.
    weights
        Weight of each model, ``(n_models,)``, adding up to 1.

    Returns
    -------
    Probabilities, ``(n_cells, n_classes)``, float32.
    """
    total = np.zeros(said[0].shape)
    for weight, probabilities in zip(weights, said, strict=True):
        total += weight * probabilities
    return total.astype(np.float32)


def fit_weights(said: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Find the weights whose vote gives cells' true labels the largest likelihood.

    Every label counts alike, however many cells it has. The likelihood of a mixture with fixed parts has one
    maximum, which expectation maximisation climbs to (Dempster et al. 1977, *J. R. Stat. Soc. B* 39).

    Parameters
    ----------
    said
        Probabilities that each model gives cells which it was not fitted to, ``(n_cells, n_classes)``.
    codes
        Their labels, ``(n_cells,)``.

    Returns
    -------
    Weights, ``(n_models,)``, adding up to 1.
    """
    rows = np.arange(len(codes))
    truth = np.stack([probabilities[rows, codes] for probabilities in said], axis=1).astype(np.float64)
    truth = np.maximum(truth, np.finfo(np.float32).tiny)
    share = 1 / np.bincount(codes)[codes]
    share /= share.sum()
    weights = np.full(len(said), 1 / len(said))
    for _ in range(_STEPS):
        claimed = truth * weights
        new = share @ (claimed / claimed.sum(axis=1, keepdims=True))
        change, weights = abs(new - weights).max(), new
        if change < _NO_CHANGE:
            break
    return weights
