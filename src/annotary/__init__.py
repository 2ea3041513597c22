"""Annotate single-cell RNA-seq data with models from an MLflow registry."""

__version__ = "0.1.0"
