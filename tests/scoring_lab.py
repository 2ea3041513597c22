"""An incoming and an output folder, scored in process by a model that needs no registry.

``python tests/scoring_lab.py FOLDER [OPTION=VALUE ...]`` scores what is in ``FOLDER/incoming`` into
``FOLDER/out`` and prints the status of each file, and its peak memory, as JSON; fault tests start it in
order to kill it.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from linear_bundle import make_bundle
from simulate import write_cells

from annotary.config import ScoreConfig
from annotary.models.bundle import Bundle
from annotary.scoring.batch import Batch, ScoredFile
from annotary.scoring.discovery import Search, find_inputs
from annotary.scoring.ledger import Ledger
from annotary.scoring.ledger_file import open_database
from annotary.scoring.outcome import make_key
from annotary.scoring.records import ScoreRecord
from annotary.scoring.recovery import rebuild, recover
from annotary.scoring.work import WorkHere

BUNDLE = make_bundle()


def make_record(ledger: Ledger) -> ScoreRecord:
    texts = dict.fromkeys(ScoreRecord.__dataclass_fields__, "")
    return ScoreRecord(**texts | {"input_size": -1, "ledger_key": ledger.key, "ledger_run": ledger.run})


@dataclass
class Lab:
    """An incoming folder, an output folder, and a model."""

    folder: Path
    version: str = "1"
    bundle: Bundle = BUNDLE
    loads: list[str] = field(default_factory=list)

    @property
    def incoming(self) -> Path:
        return self.folder / "incoming"

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def add(self, name: str, *, seed: int = 0, n_cells: int = 20) -> Path:
        path = self.incoming / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_cells(path, n_cells=n_cells, seed=seed)

    def configure(self, **options: object) -> ScoreConfig:
        given = {"input": str(self.incoming), "output": str(self.output), "settle_seconds": 0}
        return ScoreConfig(**given | options)

    def open_bundle(self) -> Bundle:
        self.loads.append(self.version)
        return self.bundle

    def iter_scored(self, **options: object) -> Iterator[ScoredFile]:
        config = self.configure(**options)
        self.output.mkdir(exist_ok=True)
        key = make_key(("model", self.version), config)
        with open_database(self.output) as (database, is_new):
            ledger = Ledger(self.output, key, database, prefix=config.prefix)
            if is_new:
                rebuild(ledger)
            with ledger.working():
                recover(ledger)
                batch = Batch(ledger, config, make_record(ledger), WorkHere(self.open_bundle, config))
                yield from batch.score(find_inputs(config.input, Search(config.recursive)).inputs)

    def score(self, **options: object) -> dict[str, str]:
        """Score; give the status of each file by its path below the incoming folder."""
        return {os.path.relpath(one.source, self.incoming): one.status for one in self.iter_scored(**options)}

    def list_outputs(self) -> list[str]:
        return sorted(
            path.relative_to(self.output).as_posix()
            for path in self.output.rglob("*")
            if path.is_file() and not path.name.startswith("annotary-ledger")
        )


def read_peak() -> int:
    """This process's peak memory, kB; what getrusage tells is that of the process that started it, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    given = dict(argument.split("=") for argument in sys.argv[2:])
    files = Lab(Path(sys.argv[1])).score(recursive=True, **given)
    print(json.dumps({"files": files, "peak_kb": read_peak()}))
