"""Checks a run's last evaluation: `check_run.py WORKDIR --at-least top1=0.98`.

Exits with 1 where the last evaluation stays below a bound or there is none.
"""

import argparse
import pathlib
import sys

from vit_jax.training.metrics import read_metrics


def last_evaluation(workdir: pathlib.Path, split: str) -> dict[str, float]:
    """The last line of `split` in the run's metrics, {} where there is none."""
    found = [entry for entry in read_metrics(workdir) if entry["split"] == split]
    return found[-1] if found else {}


def main() -> int:
    """Compares and prints one line a bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--at-least", nargs="+", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    values, failed = last_evaluation(arguments.workdir, arguments.split), False
    for bound in arguments.at_least:
        name, least = bound.split("=")
        value = values.get(name)
        reached = value is not None and value >= float(least)
        failed |= not reached
        print(f"{arguments.split} {name} {value}, at least {least}: {'yes' if reached else 'NO'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
