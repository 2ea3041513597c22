"""``python -m annotary``."""

from annotary.cli import main

main()
