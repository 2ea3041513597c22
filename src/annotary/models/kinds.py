"""Kinds of models by name: loading one kind never imports another's libraries."""

import importlib

from annotary.models.base import Annotator

KINDS = {
    "logistic_regression": "annotary.models.baselines:LogisticRegressionAnnotator",
    "random_forest": "annotary.models.baselines:RandomForestAnnotator",
    "linear_svm": "annotary.models.baselines:LinearSvmAnnotator",
    "transformer": "annotary.models.transformer.classifier:TransformerAnnotator",
    "ensemble": "annotary.models.ensemble:EnsembleAnnotator",
}


def find_class(kind: str) -> type[Annotator]:
    """Import the class of a kind."""
    module, name = KINDS[kind].split(":")
    found: type[Annotator] = getattr(importlib.import_module(module), name)
    return found
