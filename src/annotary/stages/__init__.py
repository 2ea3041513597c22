"""The stages, in the order in which pipeline.py runs them. Read these first."""
