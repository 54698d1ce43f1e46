"""The process of a contender: it builds its steps, and makes some whenever it is told how many.

    python benchmarks/contender.py JOB

JOB is a JSON object: the module of `contenders`, the variant, the checkout or null, and the work's
fields. On standard input come numbers of steps, a line each; on standard output go JSON objects:
first the seconds until the first step was done, then the seconds of each round.
"""

import importlib
import json
import os
import pathlib
import sys
import time

from contenders import Work


def main() -> None:
    """Serves until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    job = json.loads(sys.argv[1])
    checkout = job["checkout"] and pathlib.Path(job["checkout"])
    start = time.perf_counter()
    module = importlib.import_module(f"contenders.{job['module']}")
    steps = module.build(Work(**job["work"]), job["variant"], checkout)
    steps(1)
    print(json.dumps({"ready": time.perf_counter() - start}), file=answers, flush=True)
    steps(1)
    for line in sys.stdin:
        start = time.perf_counter()
        steps(int(line))
        print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main()
