"""Work on a study as another process: ``study_worker.py STORAGE N_TRIALS SECONDS_A_FOLD LOG``."""

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from models.folded import make_search

from annotary.models.tuning.study import Heartbeat

HEARTBEAT = Heartbeat(interval_s=1, grace_s=3)


def main() -> None:
    storage, n_trials, seconds, log = sys.argv[1:]
    search = make_search()
    fit = search.baseline.fit

    def slow_fit(*args, **kwargs):
        time.sleep(float(seconds))
        return fit(*args, **kwargs)

    search.baseline = replace(search.baseline, fit=slow_fit)
    with Path(log).open("a") as file:

        def write(record):
            file.write(f"{record.number}\n")
            file.flush()

        search.run("shared", storage, n_trials=int(n_trials), on_trial=write, heartbeat=HEARTBEAT)


if __name__ == "__main__":
    main()
