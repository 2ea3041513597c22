"""Metrics, comparisons and figures of predictions on labelled cells."""
