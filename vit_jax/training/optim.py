"""The optimizer of a run: clipping, a direction, decoupled weight decay, the learning rate.

    gradient -> clip by global norm, or unit by unit -> direction of the named optimizer
             -> + weight_decay * parameter, where it applies -> * -learning rate(step)
             -> * the parameter's own factor (layer decay, `lr_scales`)

Weight decay is decoupled (Loshchilov & Hutter 2019) and multiplied by the learning rate, as in
PyTorch's AdamW; it applies to kernels only (`param_rules`), but where `weight_decays` says
otherwise. What `frozen` names never comes here, see `vit_jax.training.partial`. Scanned blocks,
whose parameters are stacked along a layers axis, are updated as if each layer were an array of its
own.

Every option of an optimizer is in `OPTIMIZER_DEFAULTS` under Optax's name for it. Not among them:
learning rate, weight decay and its mask, which are common to all; Muon's `adaptive`, because Optax
sums its dual norm over all matrices of an array (queries, keys and values together); and the `eps`
of LARS, which divides by no norm that is zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from vit_jax import naming, ranges
from vit_jax.errors import UserError
from vit_jax.models.layer_ids import FINAL_NORMS
from vit_jax.models.partitioning import PlainModule
from vit_jax.training import param_groups, param_rules
from vit_jax.training.per_layer import per_layer
from vit_jax.training.schedules import Schedule, make_schedule
from vit_jax.training.unit_clip import clip_by_unit_norm

Transform = optax.GradientTransformation
Options = dict[str, Any]

OPTIMIZER_DEFAULTS: dict[str, Options] = {
    # Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2.
    "adamw": {
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "eps_root": 0.0,
        "nesterov": False,
        "mu_dtype": None,  # of the first moment, such as "bfloat16"; None: the parameter's
    },
    # Momentum 0.9 is what ViT was fine-tuned with (Dosovitskiy et al. 2021, appendix B.1.1).
    "sgd": {
        "momentum": 0.9,  # 0: none
        "nesterov": False,
        "accumulator_dtype": None,  # of the momentum; None: the parameter's
    },
    # Shazeer & Stern 2018, as changed by Zhai et al. 2022 ("Scaling Vision Transformers", section
    # 3.4): momentum in half precision, no scaling by the parameter, a capped second moment.
    "adafactor": {
        "min_dim_size_to_factor": 32,  # both axes at least as long, or second moments are full
        "factored": True,
        "decay_rate": 0.8,
        "decay_offset": 0,
        "beta2_cap": 0.999,  # upper bound of the second moment's decay
        "eps": 1e-30,
        "clipping_threshold": None,  # of the update's root mean square; the 2018 paper has 1
        "multiply_by_parameter_scale": False,  # the 2018 paper: True
        "momentum": 0.9,  # 0: none, as in the 2018 paper
        "dtype_momentum": "bfloat16",  # None: the parameter's
    },
    # You et al. 2020, algorithm 2.
    "lamb": {
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-6,
        "eps_root": 0.0,
        "mu_dtype": None,
        "always_adapt": False,  # True: trust ratios for parameters without weight decay too
    },
    # You et al. 2017, algorithm 1; for linear probes (He et al. 2022, appendix A.1).
    "lars": {
        "momentum": 0.9,
        "nesterov": False,
        "trust_coefficient": 0.001,
        "always_adapt": False,  # True: trust ratios for parameters without weight decay too
    },
    # Chen et al. 2023, algorithm 2.
    "lion": {
        "b1": 0.9,
        "b2": 0.99,
        "mu_dtype": None,
    },
    # Jordan et al. 2024; adam_* are of the AdamW for everything that is not a matrix.
    "muon": {
        "ns_coeffs": (3.4445, -4.775, 2.0315),  # or one such triple for each step
        "ns_steps": 5,
        "beta": 0.95,
        "eps": 1e-8,
        "nesterov": True,
        "preconditioning": "frobenius",  # or spectral, aol, schatten
        "consistent_rms": None,  # 0.2: AdamW's size of update (Liu et al. 2025); None: by width
        "mu_dtype": None,  # of the momentum and of Adam's first moment
        "adam_b1": 0.9,
        "adam_b2": 0.999,
        "adam_eps": 1e-8,
        "adam_eps_root": 0.0,
        "adam_nesterov": False,
        "adam_lr": None,  # peak learning rate; None: optim.lr
        "adam_weight_decay": None,  # None: optim.weight_decay
    },
}
# Of all optimizers. A pattern is a shell pattern of parameter paths, such as "head/*"; blocks are
# blocks_0, blocks_1, ... in it, scanned or not. Where several fit a parameter, the last one counts.
COMMON_DEFAULTS: Options = {
    "lr": 1e-3,  # at the peak of the schedule
    "weight_decay": 0.0,  # not on biases, norms, position embeddings and tokens
    "clip_norm": None,  # largest global norm of the gradient; None: no clipping
    "adaptive_clip": None,  # largest norm of a unit's gradient, as a share of its weights' norm
    "adaptive_clip_eps": 1e-3,  # least norm of weights that counts, see unit_clip.py
    "layer_decay": None,  # factor of the learning rate from each layer to the one below
    "layer_decay_norm": "after",  # where the final norm belongs, see models/layer_ids.py
    "lr_scales": (),  # pairs of a pattern and a factor: (("head/*", 10.0),)
    "weight_decays": (),  # pairs of a pattern and the weight decay there: (("pos_embed/*", 0.1),)
    "frozen": (),  # patterns of what stays as it is: ("patch_embed/*", "encoder/blocks_[0-5]/*")
}
_NUMBER_PAIRS = "a tuple of pairs of a pattern and a number, 0 or more, as (('head/*', 0.1),)"


def _are_pairs(x: Any) -> bool:
    rows = isinstance(x, tuple | list) and all(isinstance(p, tuple | list) for p in x)
    return rows and all(
        len(p) == 2 and isinstance(p[0], str) and ranges.NOT_NEGATIVE.fits(p[1]) for p in x
    )


_TRIPLE = ranges.several(ranges.number(), 3)
_SHARE = ranges.number("a number, 0 < x <= 1", lambda x: 0 < x <= 1)
_DTYPE = ranges.or_none(ranges.FLOAT_DTYPE)

# What each option may be, of whichever optimizer.
OPTION_RANGES: dict[str, ranges.Range] = {
    "lr": ranges.POSITIVE,
    "weight_decay": ranges.NOT_NEGATIVE,
    "clip_norm": ranges.or_none(ranges.POSITIVE),
    "adaptive_clip": ranges.or_none(ranges.POSITIVE),
    "adaptive_clip_eps": ranges.POSITIVE,
    "layer_decay": ranges.or_none(_SHARE),
    "layer_decay_norm": ranges.one_of(FINAL_NORMS),
    "lr_scales": ranges.Range(_NUMBER_PAIRS, _are_pairs),
    "weight_decays": ranges.Range(_NUMBER_PAIRS, _are_pairs),
    "frozen": ranges.PATTERNS,
    "b1": ranges.RATE,
    "b2": ranges.RATE,
    "beta": ranges.RATE,
    "momentum": ranges.RATE,
    "nesterov": ranges.TRUE_OR_FALSE,
    "factored": ranges.TRUE_OR_FALSE,
    "multiply_by_parameter_scale": ranges.TRUE_OR_FALSE,
    "always_adapt": ranges.TRUE_OR_FALSE,
    "beta2_cap": _SHARE,
    "decay_rate": _SHARE,  # Shazeer & Stern 2018, section 7.2
    "decay_offset": ranges.whole(0),
    "eps": ranges.POSITIVE,
    "eps_root": ranges.NOT_NEGATIVE,
    "trust_coefficient": ranges.POSITIVE,
    "min_dim_size_to_factor": ranges.whole(1),
    "clipping_threshold": ranges.or_none(ranges.POSITIVE),
    "ns_coeffs": ranges.either(_TRIPLE, ranges.several(_TRIPLE)),
    "ns_steps": ranges.whole(1),
    "preconditioning": ranges.one_of(("frobenius", "spectral", "aol", "schatten")),
    "consistent_rms": ranges.or_none(ranges.POSITIVE),
    "mu_dtype": _DTYPE,
    "accumulator_dtype": _DTYPE,
    "dtype_momentum": _DTYPE,
    "adam_b1": ranges.RATE,
    "adam_b2": ranges.RATE,
    "adam_eps": ranges.POSITIVE,
    "adam_eps_root": ranges.NOT_NEGATIVE,
    "adam_nesterov": ranges.TRUE_OR_FALSE,
    "adam_lr": ranges.or_none(ranges.POSITIVE),
    "adam_weight_decay": ranges.or_none(ranges.NOT_NEGATIVE),
}


def learning_rate(config: Any, total_steps: int, steps_per_epoch: float) -> Schedule:
    """Returns the learning rate of the run as a function of the step.

    Args:
      config: has `optim.lr`, the peak, and `schedule`.
      total_steps: length of the run.
      steps_per_epoch: length of an epoch.
    """
    return make_schedule(
        config.schedule,
        peak=config.optim["lr"],
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
    )


def make_optimizer(
    config: Any,
    params: Any,
    total_steps: int,
    steps_per_epoch: float,
    module: PlainModule | None = None,
) -> optax.GradientTransformation:
    """Builds the optimizer that `config.optim` and `config.schedule` describe.

    Args:
      config: has `optim` (a name, any of `COMMON_DEFAULTS` and a mapping of options under the
        optimizer's name) and `schedule`.
      params: the trained tree, nested dicts of arrays or `jax.ShapeDtypeStruct`s.
      total_steps: length of the run.
      steps_per_epoch: length of an epoch.
      module: whose parameters they are; layer decay alone needs it.

    Returns:
      A transformation of gradients into updates; `update` needs the parameters.

    Raises:
      UserError: unknown optimizer or option (the nearest are named), a value out of range, two
        ways of clipping at once, or a pattern that fits no parameter.
    """
    optim = {**COMMON_DEFAULTS, **config.optim}
    options = optimizer_options(optim)
    ranges.check({name: optim[name] for name in COMMON_DEFAULTS}, OPTION_RANGES, "optim.")
    rules = param_rules.rules(params)
    patterns = [pattern for pattern, _ in optim["weight_decays"]]
    param_groups.check_patterns("optim.weight_decays", patterns, rules)
    return optax.chain(
        _clipping(optim, rules),
        _DIRECTIONS[optim["name"]](options, optim, rules),
        optax.scale_by_learning_rate(learning_rate(config, total_steps, steps_per_epoch)),
        _own_rates(optim, rules, module),
    )


def _clipping(optim: Options, rules: Any) -> Transform:
    clip_norm, factor = optim["clip_norm"], optim["adaptive_clip"]
    if clip_norm is not None and factor is not None:
        raise UserError(
            f"optim.clip_norm={clip_norm} and optim.adaptive_clip={factor} are both given; give "
            "one, set the other to None"
        )
    if factor is not None:
        return clip_by_unit_norm(factor, optim["adaptive_clip_eps"], rules)
    return optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)


def _own_rates(optim: Options, rules: Any, module: PlainModule | None) -> Transform:
    """Multiplies each update by the factors of its parameter's learning rate."""
    factors = param_groups.lr_scales(optim["lr_scales"], rules)
    decay = optim["layer_decay"]
    if decay is not None:
        if module is None:
            raise UserError(f"optim.layer_decay={decay} needs the model whose layers it counts")
        by_layer = param_groups.layer_decay(decay, optim["layer_decay_norm"], module, rules)
        factors = jax.tree.map(np.multiply, factors, by_layer)
    if all(np.all(factor == 1) for factor in jax.tree.leaves(factors)):
        return optax.identity()
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda f, u: u * jnp.asarray(f, u.dtype), factors, updates)
    )


def optimizer_options(optim: Any) -> Options:
    """Returns the options of the optimizer that `optim` names, defaults filled in.

    Raises:
      UserError: unknown optimizer or option (the nearest are named), or a value out of range.
    """
    name = optim["name"]
    naming.check_known("optimizer", [name], OPTIMIZER_DEFAULTS)
    given = optim.get(name, {})
    naming.check_known(f"option of {name}", given, OPTIMIZER_DEFAULTS[name])
    ranges.check(given, OPTION_RANGES, f"optim.{name}.")
    return {**OPTIMIZER_DEFAULTS[name], **given}


def _decay(optim: Options, rules: Any, default: float | None = None) -> Transform:
    """Adds to every update its parameter's weight decay times the parameter.

    `default` takes the place of `optim.weight_decay`.
    """
    default = optim["weight_decay"] if default is None else default
    decays = param_groups.weight_decays(optim["weight_decays"], default, rules)
    if not any(np.any(decay) for decay in jax.tree.leaves(decays)):
        return optax.identity()

    def add(decay: np.ndarray, update: Any, parameter: Any) -> Any:
        if not np.any(decay) or isinstance(update, optax.MaskedNode):
            return update
        return update + jnp.asarray(decay, parameter.dtype) * parameter

    return optax.stateless(lambda updates, params: jax.tree.map(add, decays, updates, params))


def _adamw(o: Options, optim: Any, rules: Any) -> Transform:
    return optax.chain(optax.scale_by_adam(**o), _decay(optim, rules))


def _sgd(o: Options, optim: Any, rules: Any) -> Transform:
    momentum = optax.identity()
    if o["momentum"]:
        momentum = optax.trace(o["momentum"], o["nesterov"], o["accumulator_dtype"])
    elif o["nesterov"]:
        raise UserError("optim.sgd.nesterov needs optim.sgd.momentum, which is 0")
    return optax.chain(momentum, _decay(optim, rules))


def _lars(o: Options, optim: Any, rules: Any) -> Transform:
    """SGD with momentum on gradients as long as their parameter, times the trust coefficient.

    The learning rate comes after the momentum, so that momentum follows a schedule at once, as in
    the code of MoCo v3 and MAE.
    """
    always = o["always_adapt"]
    adapted = jax.tree.map(lambda r: always or r.decayed, rules)
    ratio = optax.scale_by_trust_ratio(trust_coefficient=o["trust_coefficient"])
    return optax.chain(
        _decay(optim, rules),
        optax.masked(per_layer(ratio, rules), adapted),
        optax.trace(o["momentum"], o["nesterov"]),
    )


def _lion(o: Options, optim: Any, rules: Any) -> Transform:
    return optax.chain(optax.scale_by_lion(**o), _decay(optim, rules))


def _lamb(o: Options, optim: Any, rules: Any) -> Transform:
    """Weight decay comes before the trust ratio, as in the paper's algorithm 2.

    Parameters that weight decay does not reach keep Adam's step, as in apex and timm.
    """
    always = o.pop("always_adapt")
    adapted = jax.tree.map(lambda r: always or r.decayed, rules)
    return optax.chain(
        optax.scale_by_adam(**o),
        _decay(optim, rules),
        optax.masked(per_layer(optax.scale_by_trust_ratio(), rules), adapted),
    )


def _adafactor(o: Options, optim: Any, rules: Any) -> Transform:
    steps = [
        optax.scale_by_factored_rms(
            factored=o["factored"],
            decay_rate=o["decay_rate"],
            step_offset=o["decay_offset"],
            min_dim_size_to_factor=o["min_dim_size_to_factor"],
            epsilon=o["eps"],
            decay_rate_fn=_second_moment_decay(o["beta2_cap"]),
        )
    ]
    if o["clipping_threshold"] is not None:
        steps.append(optax.clip_by_block_rms(o["clipping_threshold"]))
    if o["multiply_by_parameter_scale"]:
        steps.append(optax.scale_by_param_block_rms())
    if o["momentum"]:
        steps.append(optax.ema(o["momentum"], False, o["dtype_momentum"]))
    return optax.chain(per_layer(optax.chain(*steps), rules), _decay(optim, rules))


def _second_moment_decay(cap: float) -> Callable[[jax.Array, float], jax.Array]:
    """min(cap, 1 - t^-rate), t counting steps from 1 (Shazeer & Stern 2018, section 7.2)."""

    def decay(step: jax.Array, rate: float) -> jax.Array:
        t = jnp.maximum(step + 1, 1).astype(float)
        return jnp.minimum(cap, 1.0 - t**-rate)

    return decay


def _muon(o: Options, optim: Any, rules: Any) -> Transform:
    """Matrices by Muon, the rest by AdamW; `param_rules` says which is which."""
    coefficients, steps = o["ns_coeffs"], o["ns_steps"]
    if not _TRIPLE.fits(coefficients) and len(coefficients) != steps:
        raise UserError(
            f"optim.muon.ns_coeffs has {len(coefficients)} triples; expected one, or one for each "
            f"of optim.muon.ns_steps={steps} steps"
        )
    matrices = jax.tree.map(param_rules.muon_matrix, rules)
    labels = jax.tree.map(lambda _, m: "muon" if m else "adam", rules, matrices)

    def of_matrices(function: Callable[[param_rules.Rule, param_rules.Matrix], Any]) -> Any:
        return jax.tree.map(
            lambda r, m: function(r, m) if m else optax.MaskedNode(), rules, matrices
        )

    numbers = of_matrices(lambda _, m: contrib.MuonDimensionNumbers(m.inputs, m.outputs))
    scales = of_matrices(lambda r, m: _muon_scale(*m.sizes(r.shape), o["consistent_rms"]))
    names = ("ns_coeffs", "ns_steps", "beta", "eps", "nesterov", "preconditioning", "mu_dtype")
    muon = optax.chain(
        contrib.scale_by_muon(
            **{name: o[name] for name in names}, weight_dimension_numbers=numbers
        ),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales)),
        _decay(optim, rules),
    )
    names = ("b1", "b2", "eps", "eps_root", "nesterov")
    adam = optax.chain(
        optax.scale_by_adam(**{name: o[f"adam_{name}"] for name in names}, mu_dtype=o["mu_dtype"]),
        _decay(optim, rules, o["adam_weight_decay"]),
        optax.identity() if o["adam_lr"] is None else optax.scale(o["adam_lr"] / optim["lr"]),
    )
    return optax.partition({"muon": muon, "adam": adam}, labels)


def _muon_scale(rows: int, columns: int, consistent_rms: float | None) -> float:
    """The factor of an orthogonal update for a matrix with `rows` inputs and `columns` outputs.

    By default sqrt(max(1, columns / rows)) as in Jordan's code; else
    `consistent_rms` * sqrt(max(rows, columns)) (Liu et al. 2025, section 2.2).
    """
    if consistent_rms is None:
        return max(1.0, columns / rows) ** 0.5
    return consistent_rms * max(rows, columns) ** 0.5


_DIRECTIONS: dict[str, Callable[[Options, Any, Any], Transform]] = {
    "adamw": _adamw,
    "sgd": _sgd,
    "adafactor": _adafactor,
    "lamb": _lamb,
    "lars": _lars,
    "lion": _lion,
    "muon": _muon,
}
