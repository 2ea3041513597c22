"""Quality control, doublets, gene panel, and preparing cells for a model."""
