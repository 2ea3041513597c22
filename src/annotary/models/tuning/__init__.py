"""Optuna's search for a baseline's hyperparameters, by cross-validation."""
