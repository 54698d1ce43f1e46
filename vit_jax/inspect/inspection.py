"""From a configuration to what its model and its training step cost."""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from vit_jax import naming, ranges
from vit_jax.ahead.compile_ahead import resolve_without_data
from vit_jax.inspect import live, parts
from vit_jax.inspect.activations import blocks_keep_by_hand, is_plain
from vit_jax.inspect.chips import CHIPS, MARGIN, WIDE_MARGIN, WINDOWS_MARGIN, Chip
from vit_jax.inspect.flops import attention_shares, flops_by_hand
from vit_jax.inspect.parameters import parameters
from vit_jax.inspect.report import AtSize, Fit, Inspection, State
from vit_jax.inspect.source import Source, configuration
from vit_jax.inspect.step import Step, Timeline, timeline, traced_experiment
from vit_jax.inspect.step import tokens as tokens_of
from vit_jax.models import create_model, field_ranges
from vit_jax.models.layers.attention import pick_backend
from vit_jax.models.layers.attention_tpu import a_kernel_pays
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer, pair
from vit_jax.training import sharding
from vit_jax.training.experiment import Experiment, build_module
from vit_jax.training.report import bytes_a_device
from vit_jax.training.resolve import check, check_batches

# What blocks may keep, from everything to nothing.
REMATS = ("none", "dots_saveable", "dots_with_no_batch_dims_saveable", "full")
SCALES = (1, 2, 4)  # of the image's sides, to show how attention's share grows
SIZE = ranges.either(ranges.whole(1), ranges.several(ranges.whole(1), 2))


def inspect_model(
    source: Source,
    *,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int | None = None,
    mesh: Mapping[str, int] | None = None,
    overrides: Iterable[str] = (),
    report: Callable[[str], None] = lambda text: None,
) -> Inspection:
    """Says what a model costs: parameters, FLOPs, memory, and which chips hold it.

        print(vit_jax.inspect_model("vit_base_patch16_224", batch_size=256))

    Nothing is computed, no data is read, and no chip has to be there.

    Args:
        source: a recipe (.py), the folder of a run, a folder that `vit-jax convert` wrote, or a
            name of `list_models()`. A name is trained with the defaults of `base_config()`.
        image_size: pixels, one number or height and width; None: the model's own.
        batch_size: images an update, over all devices; None: the configuration's.
        mesh: devices along each axis, the others 1; None: the configuration's, where an axis that
            takes the rest (-1) is 1.
        overrides: of the configuration, such as `optim.name=lion`.
        report: is given what is being done, in words.

    Raises:
        UserError: there is no such source; images that the patches do not divide; a batch that the
            mesh does not; or the configuration is not consistent.
    """
    config = _config(source, overrides, image_size, batch_size, mesh)
    rules = sharding.make_rules(config.sharding_rules)
    plan = AbstractMesh(
        tuple(config.mesh[axis] for axis in sharding.AXES),
        sharding.AXES,
        axis_types=(AxisType.Auto,) * len(sharding.AXES),
    )
    shards = sharding.batch_shards(plan, rules)
    check_batches(config, shards)
    rows = config.data.batch_size // (shards * config.accumulate_steps)
    report("tracing the training step")
    step = Step(traced_experiment(config, rows))
    module, experiment = build_module(config.model), step.experiment
    state, gradients, share = _state(experiment, plan, rules)
    kept, by_remat = _kept(step, config, rows, report)
    programs = step.gradient(2), step.gradient(4)
    report("tracing a prediction")
    forward = step.forward(2), step.forward(4)
    summed = gradients if config.accumulate_steps > 1 else 0  # of the parts of a batch
    trained = _Peaks(programs, step, share, summed)
    predicted = _Peaks(forward, step)
    counts = parameters(module)
    moving = sum(x.size for x in jax.tree.leaves(experiment.state_factory.shapes.params))
    partly = moving < sum(counts.values())
    by_hand = is_plain(module) and not partly  # which keeps less
    return Inspection(
        source=str(source),
        model=config.model.name,
        image_size=pair(module.img_size),
        tokens=_tokens(module),
        dtype=_dtype(module),
        remat=getattr(module, "remat", "none"),
        optimizer=config.optim.name,
        parameters=counts,
        trained=moving,
        flops=flops_by_hand(module),
        training_flops=live.flops(programs[0]) / 2,
        sizes=_at_sizes(module),
        mesh={axis: config.mesh[axis] for axis in sharding.AXES},
        batch=config.data.batch_size,
        rows=rows,
        state=state,
        gradients=gradients,
        kept=kept,
        kept_by_remat=by_remat,
        kept_by_hand=rows * blocks_keep_by_hand(module) if by_hand else None,
        peak=trained.whole.at(rows),
        fused_peak=trained.fused.at(rows),
        forward_peak=predicted.whole.at(rows),
        fits=tuple(_fit(chip, module, state, trained, predicted, partly) for chip in CHIPS),
        notes=_notes(config, module, source),
    )


def _config(
    source: Source,
    overrides: Iterable[str],
    image_size: int | tuple[int, int] | None,
    batch_size: int | None,
    mesh: Mapping[str, int] | None,
) -> ConfigDict:
    """The complete configuration, with a mesh of whole sizes."""
    given = {"image_size": image_size, "batch_size": batch_size}
    allowed = {"image_size": ranges.or_none(SIZE), "batch_size": ranges.or_none(ranges.whole(1))}
    ranges.check(given, allowed)
    config = configuration(source, overrides)
    check(config)
    with config.ignore_type():
        if image_size is not None:
            config.model.img_size = image_size
        if batch_size is not None:
            config.data.batch_size = batch_size
            config.data.eval_batch_size = None
        if mesh is not None:
            naming.check_known("mesh axis", mesh, sharding.AXES)
            config.mesh.update({**dict.fromkeys(sharding.AXES, 1), **mesh})
        for axis, size in config.mesh.items():
            config.mesh[axis] = 1 if size == -1 else size
        if config.total_steps is None and config.total_epochs is None:
            config.total_steps = 1  # of a name, which costs the same however long it runs
    return resolve_without_data(config)


def _state(
    experiment: Experiment, plan: AbstractMesh, rules: sharding.Rules
) -> tuple[State, int, float]:
    """What a device holds; its gradients; and which share that is of all gradients."""
    shapes = experiment.state_factory.shapes
    batch = {"image": jax.ShapeDtypeStruct((1, *experiment.image_shape), np.float32)}
    params_axes, extra_axes = experiment.objective.logical_axes(batch)
    params = sharding.param_shardings(shapes.params, params_axes, rules, plan)
    extra = sharding.param_shardings(shapes.extra, extra_axes, rules, plan)
    moments = sharding.shardings_like_params(shapes.opt_state, shapes.params, params, plan)
    constants = experiment.constant_shapes()
    held = bytes_a_device(shapes.params, params)
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes.params))
    other = bytes_a_device(shapes.extra, extra)
    other += sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(constants))
    state = State(
        params=held,
        moments=bytes_a_device(shapes.opt_state, moments),
        average=0 if shapes.ema is None else held,
        other=other,
    )
    return state, held, held / whole


class _Peaks:
    """The timelines of a program, with attention's weights and without them."""

    def __init__(self, programs: tuple[Any, Any], step: Step, share: float = 1.0, more: int = 0):
        """Reads the programs for two and for four images.

        Args:
            programs: of a device that has all parameters.
            step: that they are of.
            share: of what does not depend on the images (gradients) that the device holds.
            more: bytes that it holds all the time.
        """

        def of(ignored: live.Ignored) -> Timeline:
            found = timeline(*programs, ignored)
            return Timeline(found.constant * share + more, found.image)

        self.whole, self.fused = of(live.nothing), of(step.is_score)


def _kept(
    step: Step, config: ConfigDict, rows: int, report: Callable[[str], None]
) -> tuple[dict[str, int], dict[str, int]]:
    """What is kept by part, and in all for other choices of `remat`."""
    found: dict[str, int] = collections.Counter()
    for one in step.kept():
        prefix = parts.DECODER if one.part.startswith(parts.DECODER) else ""
        found[prefix + parts.SCORES if one.scores else one.part] += one.bytes
    own, totals = config.model.get("remat", "none"), {}
    if "remat" not in field_ranges(config.model.name):
        return parts.in_order(found), totals
    for remat in REMATS:
        if remat == own:
            totals[remat] = sum(found.values())
            continue
        report(f"tracing with remat {remat}")
        other = Step(traced_experiment(config, rows, remat))
        totals[remat] = sum(x.bytes for x in other.kept())
    return parts.in_order(found), totals


def _at_sizes(module: PlainModule) -> tuple[AtSize, ...]:
    """The model on images whose sides are as long, twice and four times as long."""
    found = []
    for scale in SCALES:
        size = tuple(scale * side for side in pair(module.img_size))
        flops = flops_by_hand(module, size)
        tokens = _tokens(module, size)
        found.append(AtSize(size, tokens, sum(flops.values()), *attention_shares(flops)))
    return tuple(found)


def _tokens(module: PlainModule, size: tuple[int, int] | None = None) -> int:
    """That the first blocks work on; 0 for a model without."""
    if isinstance(module, SwinTransformer):
        return int(np.prod(module.grids(size)[0]))
    if not isinstance(module, VisionTransformer):
        return 0
    return tokens_of(module.clone(img_size=size or module.img_size))[-1]


def _dtype(module: PlainModule) -> str:
    return "float32" if module.dtype is None else np.dtype(module.dtype).name


def _fit(
    chip: Chip, module: PlainModule, state: State, trained: _Peaks, predicted: _Peaks, partly: bool
) -> Fit:
    margin = _margin(chip, module, partly)
    fused = _is_fused(module, chip)
    train, predict = (x.fused if fused else x.whole for x in (trained, predicted))
    return Fit(
        chip=chip.name,
        memory=chip.memory,
        usable=chip.usable,
        train=train.most((chip.usable - state.total) / margin),
        predict=predict.most((chip.usable - state.params) / margin),
        fused=fused,
    )


def _margin(chip: Chip, module: PlainModule, partly: bool) -> float:
    """What a compiler may lay out over the estimate, see `chips`."""
    if isinstance(module, SwinTransformer) and chip.platform == "tpu":
        return WINDOWS_MARGIN
    return WIDE_MARGIN if partly or isinstance(module, MaskedAutoencoder) else MARGIN


def _is_fused(module: PlainModule, chip: Chip) -> bool:
    """Whether all attention of a plain model is a fused kernel on a chip."""
    if not isinstance(module, VisionTransformer) or module.attn_backend == "xla":
        return False
    if module.attn_drop_rate > 0:
        return False
    every, *seen = tokens_of(module)
    shapes = [((seen or [every])[0], module.num_heads, module.embed_dim // module.num_heads)]
    if isinstance(module, MaskedAutoencoder):
        heads = module.decoder_num_heads
        shapes.append((every, heads, module.decoder_embed_dim // heads))
    queries = [jax.ShapeDtypeStruct((1, *shape), np.dtype(_dtype(module))) for shape in shapes]
    if chip.platform == "tpu":
        return all(a_kernel_pays(query, query, chip.name) for query in queries)
    return all(pick_backend(chip.platform, query, query, False) != "xla" for query in queries)


def _notes(config: ConfigDict, module: PlainModule, source: Source) -> tuple[str, ...]:
    notes = []
    own = field_ranges(config.model.name)["num_classes"]
    by_name = str(source) == config.model.name
    if by_name and own.fits(1) and not create_model(config.model.name).num_classes:
        notes.append(
            f"the model has no head; one of {module.num_classes} classes is counted, as in "
            "fine-tuning (--config.model.num_classes=N for another)"
        )
    if any(config.mesh[axis] > 1 for axis in ("sequence", "tensor")):
        notes.append(
            "activations are counted as if each device had whole images: what the mesh axes "
            "sequence and tensor split of them is not taken off"
        )
    if config.mesh.fsdp > 1:
        notes.append("what fsdp gathers of the parameters for a layer is not counted")
    return tuple(notes)
