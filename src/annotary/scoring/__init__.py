"""Annotating files: finding them, predicting in chunks, writing the result."""
