"""What a checkpoint costs a run: the loop's stall, the write behind it, and the way back.

    python benchmarks/checkpoints.py

The state is that of `vit-jax train`: a ViT-B/16 with AdamW, 1.03 GB. In each round the run makes
steps with nothing else going on, saves, and goes on with steps until the checkpoint is complete;
then the state is read back. Reported, as medians over the rounds:

    step        of the steps with nothing else going on
    stall       seconds in `Checkpoints.save`: what the loop waits for
    written     from the call until the checkpoint is complete on the disk, steps going on
    beside      of a step while it is written
    restore     reading it, checksums included

The stall is what is the loop's to lose. On a CPU steps beside the write are slower too: both want
the same cores; on an accelerator they do not share any.
"""

import argparse
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from report import write

import vit_jax
from vit_jax.measure.benchmark import config_of, random_batch
from vit_jax.training.checkpoint import Checkpoints, restore
from vit_jax.training.experiment import Experiment

RESULTS = pathlib.Path(__file__).parent / "results/checkpoints.json"


class Run:
    """A state and the step that moves it on."""

    def __init__(self, model: str, batch: int, dtype: str):
        """Draws the parameters and compiles the step."""
        module = vit_jax.create_model(model, dtype=dtype)
        self._experiment = Experiment(config_of(module, batch), jax.devices()[:1])
        self._step = self._experiment.train_step()
        self._batch = random_batch(self._experiment)
        self.state = self._experiment.state_factory.create()
        self.targets = self._experiment.state_factory.targets()
        self.step()

    def step(self) -> float:
        """Seconds of a step."""
        start = time.perf_counter()
        with self._experiment.activate():
            self.state, _ = self._step(self.state, self._batch)
        jax.block_until_ready(self.state)
        return time.perf_counter() - start


def timed(function: Callable[[], Any]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def one_round(run: Run, folder: pathlib.Path, steps: int) -> dict[str, float]:
    """Seconds by name."""
    alone = statistics.median(run.step() for _ in range(steps))
    with Checkpoints(folder) as checkpoints:
        start = time.perf_counter()
        stall = timed(lambda: checkpoints.save(run.state, 1, None, {}))
        beside = []
        while checkpoints.is_writing():
            beside.append(run.step())
        checkpoints.wait()
        written = time.perf_counter() - start
    back = timed(lambda: jax.block_until_ready(restore(folder, 1, run.targets)[0]))
    found = {"step": alone, "stall": stall, "written": written, "restore": back}
    return {**found, "beside": statistics.median(beside)} if beside else found


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=3, help="with nothing else, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, help="to write to, on the disk of interest")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    run = Run(args.model, args.batch, args.dtype)
    size = sum(x.nbytes for x in jax.tree.leaves(run.state))
    print(f"{args.model}, AdamW: {size / 1e9:.2f} GB, batch {args.batch}, {args.dtype}")
    rounds = []
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            rounds.append(one_round(run, pathlib.Path(folder) / "checkpoints", args.steps))
        each = "  ".join(f"{name} {seconds:.2f} s" for name, seconds in rounds[-1].items())
        print(f"round {number + 1} of {args.rounds}: {each}", flush=True)
    names = dict.fromkeys(name for one in rounds for name in one)
    medians = {name: statistics.median(x[name] for x in rounds if name in x) for name in names}
    print("  ".join(f"{name} {seconds:.3f} s" for name, seconds in medians.items()))
    print(f"the loop waits for {medians['stall'] / medians['step']:.1%} of a step")
    what = f"checkpoints of {args.model} with AdamW, batch {args.batch}, {args.dtype}"
    results = {"bytes": size, "median_seconds": medians, "rounds": rounds}
    write(args.output, what, results, ["jax", "jaxlib", "flax", "orbax-checkpoint"])


if __name__ == "__main__":
    main()
