"""How large an input is, whatever its format."""

from pathlib import Path


def measure_bytes(path: Path) -> int:
    """Measure a file, or all of a folder; 0 where it is not there."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    except OSError:
        return 0
