"""From a recipe to a report on its compiled train step."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax import naming
from vit_jax.ahead.accessed import bytes_accessed
from vit_jax.ahead.collectives import Collective, collectives
from vit_jax.ahead.data_sizes import EXAMPLES, SIZES
from vit_jax.ahead.flops import Flops, flops
from vit_jax.ahead.hlo import Program
from vit_jax.ahead.hlo_text import parse
from vit_jax.ahead.program import Step, TooLarge, compile_step
from vit_jax.ahead.report import Memory, Report, traffic
from vit_jax.ahead.roofline import roofline
from vit_jax.ahead.teacher import described_model
from vit_jax.ahead.topology import devices_of
from vit_jax.errors import UserError
from vit_jax.models import field_ranges
from vit_jax.training import hardware
from vit_jax.training.config import open_and_lock
from vit_jax.training.experiment import Experiment
from vit_jax.training.report import bytes_a_device
from vit_jax.training.resolve import check, resolve
from vit_jax.training.sharding import AXES, number_of_slices

LARGEST = 3  # collectives that the report names one by one


def compile_ahead(
    config: ConfigDict,
    platform: str | None = None,
    *,
    topology: str | None = None,
    mesh: Mapping[str, int] | None = None,
    num_classes: int | None = None,
    train_examples: int | None = None,
    progress: Callable[[str], None] = print,
) -> Report:
    """Compiles the train step of a recipe and reports what it takes. Nothing is computed.

    Neither the devices nor the data have to be there. Call it in a process in which JAX has not
    computed anything: the number of simulated CPU devices can be set only once.

    Args:
      config: see `vit_jax.training.config`.
      platform: "tpu", "gpu" or "cpu"; None: "tpu", where there is a topology.
      topology: of TPUs, such as "v5e:16x16", see `vit_jax.training.tpu_slices`; None:
        `config.tpu_topology`.
      mesh: devices along each axis, the others 1; None: `config.mesh`.
      num_classes: of the data; None: by `config.model.num_classes`, or those of a data set that is
        known.
      train_examples: of the data; None: as known. Only durations depend on it.
      progress: is given a sentence where tracing begins, and one where compiling does.

    Raises:
      UserError: the configuration is not consistent, the platform is not there, or nothing says how
        many classes there are, or two say different numbers; a kernel is too large for a chip.
    """
    check(config)
    platform, topology = _place(config, platform, topology)
    config = _on_mesh(config, mesh)
    devices = devices_of(platform, topology, _count(config.mesh, platform))
    config = resolve_without_data(config, num_classes, train_examples)
    load_model = functools.partial(described_model, num_classes=config.model.num_classes)
    experiment = Experiment(config, devices, load_model=load_model)
    return _report(experiment, platform, topology, compile_step(experiment, progress))


def _place(
    config: ConfigDict, platform: str | None, topology: str | None
) -> tuple[str, str | None]:
    """What to compile for: as it is said, and else as the recipe says."""
    if platform in (None, "tpu"):
        topology = topology or config.tpu_topology
    if platform is None and topology is None:
        raise UserError(
            "the recipe names no TPU (config.tpu_topology): say what to compile for, with "
            "--topology, such as v5e:4x4, or --platform"
        )
    return platform or "tpu", topology


def _on_mesh(config: ConfigDict, mesh: Mapping[str, int] | None) -> ConfigDict:
    config = open_and_lock(config.copy_and_resolve_references())
    if mesh is not None:
        naming.check_known("mesh axis", mesh, AXES)
        config.mesh.update({**dict.fromkeys(AXES, 1), **mesh})
    return config


def _count(mesh: Mapping[str, int], platform: str) -> int | None:
    """How many devices the mesh has; None where one axis takes the rest."""
    if -1 not in mesh.values():
        return math.prod(mesh.values())
    if platform == "cpu":
        given = ", ".join(f"{axis}={size}" for axis, size in mesh.items())
        raise UserError(
            f"the mesh {given} takes as many devices as there are, and those of --platform cpu are "
            "simulated: say how many, as in --mesh data=4,fsdp=2"
        )
    return None


def resolve_without_data(
    config: ConfigDict, num_classes: int | None = None, train_examples: int | None = None
) -> ConfigDict:
    """Returns the complete configuration of a run whose data are not there.

    Args:
      config: see `vit_jax.training.config`.
      num_classes: see `compile_ahead`.
      train_examples: see `compile_ahead`.

    Raises:
      UserError: see `vit_jax.training.resolve`; or nothing says how many classes there are, or two
        say different numbers.
    """
    for name, number in (("num-classes", num_classes), ("train-examples", train_examples)):
        if number is not None and number < 1:
            raise UserError(f"--{name} is {number}; expected 1 or more")
    said = config.model.num_classes
    if None not in (num_classes, said) and num_classes != said:
        raise UserError(
            f"--num-classes is {num_classes} and config.model.num_classes is {said}: leave one out"
        )
    examples, classes = SIZES.get(config.data.source, (EXAMPLES, None))
    classes = num_classes or config.model.num_classes or classes
    if classes is None:
        if field_ranges(config.model.name)["num_classes"].fits(1):
            raise UserError(
                f"how many classes {config.data.source!r} has is not known without the data: set "
                "--num-classes, or --config.model.num_classes"
            )
        classes = 0
    return resolve(config, train_examples or examples, classes)


def _report(
    experiment: Experiment, platform: str, topology: str | None, found: Step | TooLarge
) -> Report:
    config, device = experiment.config, experiment.mesh.devices.flat[0]
    devices, slices = experiment.mesh.size, number_of_slices(experiment.mesh.devices.flat)
    state, every = experiment.state_factory, experiment.all_shapes()
    chip = hardware.chip(device)
    model_flops = experiment.training_flops() * config.data.batch_size / devices
    common = dict(
        model=config.model.name,
        platform=platform,
        topology=topology,
        device_kind=device.device_kind,
        devices=devices,
        slices=slices,
        mesh=dict(experiment.mesh.shape),
        parameters=_size(every),
        trained=_size(state.shapes.params),
        batch=config.data.batch_size,
        accumulate_steps=config.accumulate_steps,
        state_bytes=bytes_a_device(state.shapes, state.shardings),
        compile_seconds=found.seconds,
        model_flops=model_flops,
        forward_flops=float(experiment.module.flops()),
    )
    if isinstance(found, TooLarge):
        return Report(
            fits=False,
            capacity=found.available,
            needed=found.needed,
            notes=(found.message.splitlines()[0],),
            **common,
        )
    memory = Memory.of(found.compiled)
    program = parse(found.compiled.as_text())
    computed, moved = flops(program), bytes_accessed(program)
    sent = collectives(program, devices, slices)
    sums = traffic(x for x in sent if not x.between_slices)
    roof = None
    if chip is not None:
        total = sum(x.bytes for x in sums.values())
        roof = roofline(chip, computed.count, moved, total, model_flops)
    return Report(
        # The compiler of TPUs has found room; those of others do not look.
        fits=platform == "tpu" or chip is None or memory.total <= chip.capacity,
        capacity=None if chip is None else int(chip.capacity),
        needed=memory.total,
        memory=memory,
        flops=computed.count,
        bytes_accessed=moved,
        collectives=sums,
        between_slices=traffic(x for x in sent if x.between_slices),
        largest=_largest(sent),
        roofline=roof,
        notes=what_is_left_out(program, computed, slices),
        **common,
    )


def _size(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def _largest(found: Sequence[Collective]) -> tuple[Collective, ...]:
    return tuple(sorted(found, key=lambda x: x.sent, reverse=True)[:LARGEST])


def what_is_left_out(program: Program, computed: Flops, slices: int) -> tuple[str, ...]:
    """Returns the notes on what the numbers leave out, or count though it may not run.

    Args:
      program: of one device.
      computed: its FLOPs.
      slices: of TPUs that run it.
    """
    notes = []
    if computed.unknown_kernels:
        names = ", ".join(computed.unknown_kernels)
        notes.append(f"FLOPs without those of the kernels {names}, which do not say theirs")
    if program.unknown_loops:
        notes.append(
            f"{program.unknown_loops} loops run as often as their data asks for and count once "
            "(random numbers of mixup, for example)"
        )
    if program.conditionals:
        notes.append(
            f"all branches of {program.conditionals} conditionals count, and one of each runs"
        )
    if slices > 1:
        notes.append(
            "the least time is without what goes from slice to slice, whose rate is not known"
        )
    return tuple(notes)
