"""Throughput, latency, memory and compile time of a model on this machine, on one device.

- Throughput: calls follow each other without a wait; images over seconds, median, lowest and
  highest of the rounds.
- Latency: each call is waited for; percentiles over all calls of all rounds.
- In a round every program has its turn, one after the other, so that what else the machine does
  meets them all.
- Utilisation: the operations that the model needs (`module.flops()`; three forward passes for a
  step that trains everything) a second at the median, over what the best of a few square matrix
  products of the same dtype reaches in the best of its rounds.

A train step is that of `vit_jax.train` with its default optimizer (AdamW) on pictures in memory:
it includes normalisation and update, and no data pipeline.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vit_jax import models, naming, printing
from vit_jax.ahead.program import TooLarge, compile_step
from vit_jax.errors import UserError
from vit_jax.measure import machine
from vit_jax.measure.programs import Program, compiled, matmul
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.registry import names_of
from vit_jax.models.vit import pair
from vit_jax.ranges import FLOAT_DTYPE
from vit_jax.training.config import base_config
from vit_jax.training.experiment import Experiment
from vit_jax.training.report import bytes_text
from vit_jax.training.resolve import resolve
from vit_jax.training.trained import open_model

WHAT = ("forward", "train")
PERCENTILES = (50, 95, 99)
MATRICES = {"cpu": (1024, 2048)}  # sides; of other platforms:
LARGE = (4096, 8192)


@dataclasses.dataclass(frozen=True)
class Row:
    """One program's results.

    Attributes:
        what: "forward" or "train".
        dtype: of the computation.
        batch: images a call.
        images_per_second: median of the rounds.
        lowest: of the rounds.
        highest: of the rounds.
        latency_ms: of one call, by percentile.
        calls: that the percentiles are of.
        flops_per_second: that the model needs.
        utilisation: these over the ceiling of the dtype.
        bytes: that the program takes on the device.
        compile_seconds: of tracing and compiling.
    """

    what: str
    dtype: str
    batch: int
    images_per_second: float
    lowest: float
    highest: float
    latency_ms: dict[int, float]
    calls: int
    flops_per_second: float
    utilisation: float
    bytes: int
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Results of a model.

    Attributes:
        model: what was measured, in words.
        parameters: how many.
        rows: one for each program.
        ceilings: FLOP/s of matrix products by dtype.
        rounds: how often each had its turn.
        machine: what it ran on.
    """

    model: str
    parameters: int
    rows: tuple[Row, ...]
    ceilings: dict[str, float]
    rounds: int
    machine: dict[str, object]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return dataclasses.asdict(self)

    def as_text(self) -> str:
        """A table for each kind of program and dtype."""
        where = self.machine
        lines = printing.wrapped(
            f"{self.model}, {self.parameters:,} parameters, one of {where['count']} x "
            f"{where['device']} ({where['platform']}), {where['cores']} cores of {where['cpu']}, "
            f"load {where['load_average']}; {self.rounds} rounds"
        )
        kinds = dict.fromkeys((row.what, row.dtype) for row in self.rows)
        for what, dtype in kinds:
            ceiling = self.ceilings[dtype] / 1e9
            lines += [f"\n{what}, {dtype}: matrix products reach {ceiling:,.0f} GFLOP/s", HEADER]
            lines += [_line(x) for x in self.rows if (x.what, x.dtype) == (what, dtype)]
        return "\n".join(lines)


HEADER = (
    f"{'batch':>5}{'images/s':>10}{'(lowest-highest)':>17}{'p50':>8}{'p95':>8}{'p99 ms':>8}"
    f"{'use':>6}{'memory':>11}{'comp.':>7}"
)


def _rate(images_per_second: float) -> str:
    """Four digits, or all that stand before the point."""
    few = images_per_second < 1000
    return f"{images_per_second:.4g}" if few else f"{images_per_second:.0f}"


def _line(row: Row) -> str:
    spread = f"({_rate(row.lowest)}-{_rate(row.highest)})"
    latency = "".join(f"{row.latency_ms[x]:8.4g}" for x in PERCENTILES)
    return (
        f"{row.batch:5}{_rate(row.images_per_second):>10}{spread:>17}{latency}"
        f"{100 * row.utilisation:4.0f} %{bytes_text(row.bytes):>11}{row.compile_seconds:5.1f} s"
    )


def benchmark(
    model: str | os.PathLike[str],
    batch_sizes: Sequence[int] = (1, 8),
    dtypes: Sequence[str] = ("float32",),
    what: Sequence[str] = ("forward",),
    *,
    rounds: int = 5,
    seconds: float = 1.0,
    model_options: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> Benchmark:
    """Measures a model on the first device of this machine.

        found = vit_jax.benchmark("vit_small_patch16_224", batch_sizes=[1, 32], what=["train"])
        found.rows[0].images_per_second

    Args:
        model: a name of `vit_jax.list_models()`, with random weights; or what `vit_jax.open_model`
            opens.
        batch_sizes: images a call.
        dtypes: of the computation; parameters are float32.
        what: "forward", "train" or both.
        rounds: how often each program has its turn.
        seconds: of a turn, about: half for throughput, half for latency; at least one call each.
        model_options: hyper-parameters that differ from the name's, such as `img_size`.
        report: is given the sentences a user should read.

    Raises:
        UserError: no such model, a value out of range, or a program that does not fit the memory.
    """
    _check(batch_sizes, dtypes, what, rounds, seconds)
    module, params = _opened(model, dict(model_options or {}), report)
    keys = [(a, b, c) for b in dtypes for a in what for c in batch_sizes]
    measured: dict[Any, _Measured] = {}
    for dtype in dict.fromkeys(dtypes):
        sides = MATRICES.get(jax.default_backend(), LARGE)
        measured |= {(dtype, side): _Measured(*matmul(side, dtype)) for side in sides}
    for key in tqdm(dict.fromkeys(keys), "compiling", disable=None, leave=False):
        with _fitting(key):
            measured[key] = _Measured(*program_of(module, params, *key))
    _measure(list(measured.values()), rounds, seconds)
    ceilings = {
        dtype: max(x.flops / min(x.per_call) for key, x in measured.items() if key[0] == dtype)
        for dtype in dtypes
    }
    rows = (measured[key].row(*key, ceilings[key[1]]) for key in dict.fromkeys(keys))
    return Benchmark(
        os.fspath(model),
        sum(x.size for x in jax.tree.leaves(params)),
        tuple(rows),
        ceilings,
        rounds,
        machine.describe(["vit_jax", "jax", "jaxlib", "flax"]) | machine.describe_devices(),
    )


def _check(
    batch_sizes: Sequence[int],
    dtypes: Sequence[str],
    what: Sequence[str],
    rounds: int,
    seconds: float,
) -> None:
    naming.check_known("kind of program", what, WHAT)
    for batch in batch_sizes:
        if batch < 1:
            raise UserError(f"a batch of {batch}: expected 1 or more")
    for dtype in dtypes:
        if not FLOAT_DTYPE.fits(dtype):
            raise UserError(f"dtype {dtype!r}: expected {FLOAT_DTYPE.expected}")
    if "float64" in dtypes and not jax.config.jax_enable_x64:
        raise UserError("float64 needs JAX_ENABLE_X64=1 in the environment")
    if rounds < 1 or not seconds > 0:
        raise UserError(f"{rounds} rounds of {seconds} s: expected 1 or more, and more than 0 s")
    if not (batch_sizes and dtypes and what):
        raise UserError("there is nothing to measure: give batch sizes, dtypes and what")


def _opened(
    model: str | os.PathLike[str], options: dict[str, Any], report: Callable[[str], None]
) -> tuple[Any, Any]:
    """The module, and parameters on the device."""
    name = os.fspath(model)
    if name in models.list_models():
        module = models.create_model(name, **options)
        images = jnp.zeros((1, *pair(module.img_size), module.in_chans))
        rngs = {"params": jax.random.key(0), "mask": jax.random.key(1)}
        return module, jax.jit(module.init)(rngs, images)["params"]
    if options:
        raise UserError(f"{sorted(options)} change a model by name, and {name!r} is none of these")
    try:
        opened = open_model(model, report=report)
    except UserError as error:
        near = naming.nearest(name, models.list_models())
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else "vit-jax models lists all"
        )
        raise UserError(f"{error}; nor is {name!r} the name of a model: {hint}") from error
    return opened.module, jax.device_put(opened.params)


def program_of(
    module: Any, params: Any, what: str, dtype: str, batch: int
) -> tuple[Program, float]:
    """A program, and the operations that the model needs for a call of it.

    Args:
        module: the model.
        params: for a forward pass.
        what: "forward", or "train": a step of `vit_jax.train`, which draws its own parameters.
        dtype: of the computation.
        batch: images of a call.
    """
    module = module.clone(dtype=dtype)
    if what == "train":
        return _train(module, batch)
    return _forward(module, params, batch)


@contextlib.contextmanager
def _fitting(key: tuple[str, str, int]) -> Iterator[None]:
    """Says which program's memory is not there, when it is compiled or when it runs."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        what, dtype, batch = key
        raise UserError(
            f"{what} in {dtype}: a batch of {batch} does not fit beside the other programs that "
            "are measured: give less, or fewer at once"
        ) from error


def _forward(module: Any, params: Any, batch: int) -> tuple[Program, float]:
    images = jax.random.normal(jax.random.key(0), (batch, *pair(module.img_size), module.in_chans))
    rngs = {"mask": jax.random.key(0)} if isinstance(module, MaskedAutoencoder) else {}
    program = compiled(lambda p, x: module.apply({"params": p}, x, rngs=rngs), params, images)
    return program, float(batch * module.flops())


def _train(module: Any, batch: int) -> tuple[Program, float]:
    """A step of `vit_jax.train`; its state is donated from call to call."""
    experiment = Experiment(config_of(module, batch), jax.devices()[:1])
    step = compile_step(experiment, progress=lambda text: None)  # a bar shows how far it is
    if isinstance(step, TooLarge):
        raise UserError(f"a batch of {batch} takes {bytes_text(step.needed)}: give less")
    state, constants = experiment.state_factory.create(), experiment.train_step().constants
    arguments = (state, random_batch(experiment), _no_wishes(experiment), constants)
    program = Program(step.compiled, arguments, step.seconds, carries=True)
    return program, float(batch * experiment.training_flops())


def config_of(module: Any, batch: int) -> Any:
    """The configuration of a run of that module, with a batch of that size, on one device."""
    config = base_config()
    fields = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    config.model = {"name": names_of(module)[0], **{x: getattr(module, x) for x in fields}}
    if isinstance(module, MaskedAutoencoder):
        config.objective = {"name": "mae"}
    config.data.batch_size = batch
    config.total_steps = 1_000_000
    config.mesh.data = 1
    channels = module.in_chans
    config.data.mean, config.data.std = (0.5,) * channels, (0.5,) * channels
    return resolve(config, batch, max(module.num_classes, 1))


def random_batch(experiment: Experiment) -> dict[str, jax.Array]:
    """Random pictures, all of class 0, as the data pipeline gives them."""
    rng = np.random.default_rng(0)

    def filled(shape: jax.ShapeDtypeStruct) -> jax.Array:
        high = 256 if shape.dtype == np.uint8 else 1
        return jax.device_put(rng.integers(0, high, shape.shape, shape.dtype), shape.sharding)

    return jax.tree.map(filled, experiment.batch_shapes())


def _no_wishes(experiment: Experiment) -> jax.Array:
    """What the step is given while nobody was told to stop."""
    shape = experiment.wish_shapes()
    return jax.device_put(np.zeros(shape.shape, shape.dtype), shape.sharding)


class _Measured:
    """A program and the times of its rounds.

    Attributes:
        flops: of a call.
        per_call: seconds of a call, in each round.
        single: seconds of each call that was waited for.
    """

    def __init__(self, program: Program, flops: float):
        """Runs the program a few times, to know how long a call takes."""
        self.program, self.flops = program, flops
        self.per_call: list[float] = []
        self.single: list[float] = []
        program.timed()  # the first call does more than others
        self._usual = min(program.timed() for _ in range(2))

    def turn(self, seconds: float) -> None:
        """A round of about so many seconds."""
        calls = max(1, round(seconds / 2 / self._usual))
        self.per_call.append(self.program.timed(calls) / calls)
        end = time.perf_counter() + seconds / 2
        self.single.append(self.program.timed())
        while time.perf_counter() < end:
            self.single.append(self.program.timed())

    def row(self, what: str, dtype: str, batch: int, ceiling: float) -> Row:
        """The results."""
        median = float(np.median(self.per_call))
        milliseconds = np.percentile(self.single, PERCENTILES) * 1e3
        return Row(
            what,
            dtype,
            batch,
            batch / median,
            batch / max(self.per_call),
            batch / min(self.per_call),
            dict(zip(PERCENTILES, map(float, milliseconds))),
            len(self.single),
            self.flops / median,
            self.flops / median / ceiling,
            self.program.bytes,
            self.program.compile_seconds,
        )


def _measure(programs: Sequence[_Measured], rounds: int, seconds: float) -> None:
    """Gives each program its turn, round by round."""
    turns = [x for _ in range(rounds) for x in programs]
    for program in tqdm(turns, "measuring", disable=None, leave=False):
        program.turn(seconds)
