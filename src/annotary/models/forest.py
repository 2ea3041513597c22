"""A random forest as plain arrays: read from scikit-learn once, predicted with NumPy alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree._tree import Tree

BLOCK_CELLS = 256
"""Cells that are dense at a time; all trees are walked for them at once."""

_NO_CHILD = -1


@dataclass(frozen=True)
class ForestArrays:
    """The trees of a forest, their splits and leaves numbered in one go.

    A node is a number: split ``i`` is ``i``, leaf ``j`` is ``~j`` (negative).

    Attributes
    ----------
    roots
        First node of each tree, ``(n_trees,)``, int32; negative for a tree of one leaf.
    children
        Nodes below each split, left and right, ``(n_splits, 2)``, int32.
    feature
        Panel gene that a split looks at, ``(n_splits,)``, int32.
    threshold
        Largest value that goes left, ``(n_splits,)``, float32.
    leaf_proba
        Class probabilities of the different leaves, ``(n_leaves, n_classes)``, float32.
        Equal leaves share a row, so pure leaves cost one row for each class.
    """

    roots: np.ndarray
    children: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    leaf_proba: np.ndarray

    def predict_proba(self, log_expr: csr_matrix) -> np.ndarray:
        """Average the leaves that each cell reaches.

        Parameters
        ----------
        log_expr
            Log-normalised values, ``(n_cells, n_panel)``, float32.

        Returns
        -------
        Probabilities, ``(n_cells, n_classes)``, float64.
        """
        proba = np.empty((log_expr.shape[0], self.leaf_proba.shape[1]))
        for start in range(0, len(proba), BLOCK_CELLS):
            rows = slice(start, start + BLOCK_CELLS)
            leaves = self._find_leaves(log_expr[rows].toarray())
            proba[rows] = self.leaf_proba[leaves].mean(axis=1, dtype=np.float64)
        return proba

    def _find_leaves(self, block: np.ndarray) -> np.ndarray:
        """Walk dense cells ``(n_cells, n_panel)`` down every tree to leaves ``(n_cells, n_trees)``."""
        n_cells, n_trees = len(block), len(self.roots)
        node = np.tile(self.roots, n_cells)
        cell = np.repeat(np.arange(n_cells), n_trees)
        walking = np.flatnonzero(node >= 0)
        while walking.size:
            split = node[walking]
            goes_right = block[cell[walking], self.feature[split]] > self.threshold[split]
            node[walking] = self.children[split, goes_right.astype(np.intp)]
            walking = walking[node[walking] >= 0]
        return ~node.reshape(n_cells, n_trees)


def export_forest(estimator: "RandomForestClassifier", *, n_classes: int | None = None) -> ForestArrays:
    """Read the trees of a fitted scikit-learn forest of one output.

    Parameters
    ----------
    estimator
        The forest; its classes are some of 0 to ``n_classes - 1``.
    n_classes
        Columns of the probabilities; None for as many as the forest has.
    """
    roots, children, feature, threshold, leaf_proba = [], [], [], [], []
    n_splits = n_leaves = 0
    for tree in (member.tree_ for member in estimator.estimators_):
        is_leaf = tree.children_left == _NO_CHILD
        node = _number_nodes(is_leaf, n_splits=n_splits, n_leaves=n_leaves)
        roots.append(node[0])
        children.append(node[np.column_stack([tree.children_left, tree.children_right])[~is_leaf]])
        feature.append(tree.feature[~is_leaf])
        threshold.append(_round_down(tree.threshold[~is_leaf]))
        leaf_proba.append(_read_leaves(tree, is_leaf))
        n_leaves += int(is_leaf.sum())
        n_splits += int((~is_leaf).sum())
    unique, row = np.unique(np.concatenate(leaf_proba), axis=0, return_inverse=True)
    return ForestArrays(
        roots=_share_leaves(np.array(roots), row),
        children=_share_leaves(np.concatenate(children), row),
        feature=np.concatenate(feature).astype(np.int32),
        threshold=np.concatenate(threshold),
        leaf_proba=_spread_classes(unique, estimator.classes_, n_classes),
    )


def weigh_splits(estimator: "RandomForestClassifier", *, n_classes: int) -> np.ndarray:
    """Share the importance of each gene out among classes, signed.

    Gini impurity is a sum over classes of ``p (1 - p)``, so what a split takes from it is a sum over classes
    too. A share counts as positive where the class is more frequent on the side of higher expression.

    Returns
    -------
    Importance, ``(n_panel, n_classes)``, float32; absolute values add up to 1 over genes and classes.
    """
    weights = np.zeros((estimator.n_features_in_, len(estimator.classes_)))
    for tree in (member.tree_ for member in estimator.estimators_):
        split = np.flatnonzero(tree.children_left != _NO_CHILD)
        left, right = tree.children_left[split], tree.children_right[split]
        share = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
        impurity = share * (1 - share) * tree.weighted_n_node_samples[:, None]
        gain = (impurity[split] - impurity[left] - impurity[right]) / tree.weighted_n_node_samples[0]
        np.add.at(weights, tree.feature[split], gain * np.sign(share[right] - share[left]))
    weights /= max(np.abs(weights).sum(), np.finfo(float).tiny)
    return _spread_classes(weights.astype(np.float32), estimator.classes_, n_classes)


def _spread_classes(values: np.ndarray, classes: np.ndarray, n_classes: int | None) -> np.ndarray:
    """Put columns ``(any, n_fitted)`` to their classes, zero for the others: ``(any, n_classes)``."""
    if n_classes is None or n_classes == len(classes):
        return values
    spread = np.zeros((len(values), n_classes), dtype=values.dtype)
    spread[:, classes] = values
    return spread


def _number_nodes(is_leaf: np.ndarray, *, n_splits: int, n_leaves: int) -> np.ndarray:
    """Number the nodes of a tree ``(n_nodes,)`` after the splits and leaves of the trees before it."""
    return np.where(is_leaf, ~(n_leaves + np.cumsum(is_leaf) - 1), n_splits + np.cumsum(~is_leaf) - 1)


def _round_down(threshold: np.ndarray) -> np.ndarray:
    """Store float64 thresholds as the float32 at or below each.

    Cells are float32, so ``value <= threshold`` stays exactly as scikit-learn decides it.
    """
    rounded = threshold.astype(np.float32)
    return np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _read_leaves(tree: "Tree", is_leaf: np.ndarray) -> np.ndarray:
    """Read class probabilities of a tree's leaves, ``(n_leaves, n_classes)``."""
    weight = tree.value[is_leaf, 0, :]
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def _share_leaves(node: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Point leaves at their row among the different ones."""
    shared = node.copy()
    shared[node < 0] = ~row[~node[node < 0]]
    return shared.astype(np.int32)
