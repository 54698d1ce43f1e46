"""Seconds from `vit-jax train` to its first step, with and without programs kept from before.

    python benchmarks/startup.py

Runs the quick start's command in a new workdir, again and again: the first time no compiled program
is kept, then those of the first are found. The clock starts with the process. Three moments are
seen from outside: the first line of output (the libraries are loaded, the data is open), the last
line of the header (the state is about to be made), and the first row of `metrics.jsonl` (the first
step has ended, and its numbers are on the disk).
"""

import argparse
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable

from report import write

RESULTS = pathlib.Path(__file__).parent / "results/startup.json"
ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER_ENDS = "cache "
PATIENCE = 300  # seconds


def start(config: pathlib.Path, workdir: pathlib.Path, cache: pathlib.Path) -> dict[str, float]:
    """Seconds from the process's start to each moment; it is stopped then.

    Raises:
        RuntimeError: the process ended before its first step, or takes too long.
    """
    command = [sys.executable, "-m", "vit_jax.cli.main", "train", "--config", str(config)]
    command += ["--workdir", str(workdir), "--config.log_every_steps=1"]
    command += [f"--config.compilation_cache={cache}"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    moments: dict[str, float] = {}
    errors: list[str] = []
    threads = [
        threading.Thread(target=_watch, args=(process.stdout, begun, moments)),
        threading.Thread(target=lambda: errors.extend(process.stderr)),
    ]
    for thread in threads:
        thread.start()
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None or time.perf_counter() - begun > PATIENCE:
            process.kill()
            raise RuntimeError("".join(errors[-20:]) or f"no step in {PATIENCE} s")
        time.sleep(0.005)
    moments["first step"] = time.perf_counter() - begun
    process.send_signal(signal.SIGKILL)
    process.wait()
    for thread in threads:
        thread.join()
    return moments


def _watch(lines: Iterable[str], begun: float, moments: dict[str, float]) -> None:
    """Notes when the first line and the header's last one come."""
    for line in lines:
        moments.setdefault("first line", time.perf_counter() - begun)
        if line.startswith(HEADER_ENDS):
            moments.setdefault("header", time.perf_counter() - begun)


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=pathlib.Path, default=ROOT / "configs/digits.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        for number in range(args.rounds + 1):
            found.append(start(args.config, place / f"run{number}", place / "cache"))
            name = f"warm {number} of {args.rounds}" if number else "cold"
            each = "  ".join(f"{moment} {seconds:.2f} s" for moment, seconds in found[-1].items())
            print(f"{name}: {each}", flush=True)
    cold, warm = found[0], found[1:]
    medians = {moment: statistics.median(x[moment] for x in warm) for moment in warm[0]}
    print("warm: " + "  ".join(f"{name} {seconds:.2f} s" for name, seconds in medians.items()))
    results = {"cold": cold, "warm_median_seconds": medians, "warm": warm}
    write(args.output, f"start of vit-jax train, {args.config.name}", results)


if __name__ == "__main__":
    main()
