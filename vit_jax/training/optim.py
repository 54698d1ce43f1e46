"""The optimizer of a run: clipping, a direction, decoupled weight decay, the learning rate.

    gradient -> clip by global norm -> direction of the named optimizer
             -> + weight_decay * parameter, where it applies -> * -learning rate(step)

Weight decay is decoupled (Loshchilov & Hutter 2019) and multiplied by the learning rate, as in
PyTorch's AdamW; it applies to kernels only (`param_rules`). Scanned blocks, whose parameters are
stacked along a layers axis, are updated as if each layer were an array of its own.

Every option of an optimizer is in `OPTIMIZER_DEFAULTS` under Optax's name for it. Not among them:
learning rate, weight decay and its mask, which are common to all, and Muon's `adaptive`, because
Optax sums its dual norm over all matrices of an array (queries, keys and values together).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from vit_jax import naming, ranges
from vit_jax.errors import UserError
from vit_jax.training import param_rules
from vit_jax.training.per_layer import per_layer
from vit_jax.training.schedules import Schedule, make_schedule

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
COMMON = ("lr", "weight_decay", "clip_norm")  # to all optimizers

_TRIPLE = ranges.several(ranges.number(), 3)
_SHARE = ranges.number("a number, 0 < x <= 1", lambda x: 0 < x <= 1)
_DTYPE = ranges.or_none(ranges.FLOAT_DTYPE)

# What each option may be, of whichever optimizer.
OPTION_RANGES: dict[str, ranges.Range] = {
    "lr": ranges.POSITIVE,
    "weight_decay": ranges.NOT_NEGATIVE,
    "clip_norm": ranges.or_none(ranges.POSITIVE),
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
    config: Any, params: Any, total_steps: int, steps_per_epoch: float
) -> optax.GradientTransformation:
    """Builds the optimizer that `config.optim` and `config.schedule` describe.

    Args:
      config: has `optim` (name, lr, weight_decay, clip_norm and a mapping of options under the
        optimizer's name) and `schedule`.
      params: the trained tree, nested dicts of arrays or `jax.ShapeDtypeStruct`s.
      total_steps: length of the run.
      steps_per_epoch: length of an epoch.

    Returns:
      A transformation of gradients into updates; `update` needs the parameters.

    Raises:
      UserError: unknown optimizer or option (the nearest are named), or a value out of range.
    """
    optim = config.optim
    options = optimizer_options(optim)
    ranges.check({name: optim[name] for name in COMMON}, OPTION_RANGES, "optim.")
    rules = param_rules.rules(params)
    direction = _DIRECTIONS[optim["name"]](options, optim, rules)
    clip_norm = optim["clip_norm"]
    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        direction,
        optax.scale_by_learning_rate(learning_rate(config, total_steps, steps_per_epoch)),
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


def _decay(weight_decay: float, rules: Any) -> Transform:
    """Adds `weight_decay * parameter` to the update of every decayed parameter."""
    if not weight_decay:
        return optax.identity()
    return optax.add_decayed_weights(weight_decay, jax.tree.map(lambda r: r.decayed, rules))


def _adamw(o: Options, optim: Any, rules: Any) -> Transform:
    return optax.chain(optax.scale_by_adam(**o), _decay(optim["weight_decay"], rules))


def _sgd(o: Options, optim: Any, rules: Any) -> Transform:
    momentum = optax.identity()
    if o["momentum"]:
        momentum = optax.trace(o["momentum"], o["nesterov"], o["accumulator_dtype"])
    elif o["nesterov"]:
        raise UserError("optim.sgd.nesterov needs optim.sgd.momentum, which is 0")
    return optax.chain(momentum, _decay(optim["weight_decay"], rules))


def _lion(o: Options, optim: Any, rules: Any) -> Transform:
    return optax.chain(optax.scale_by_lion(**o), _decay(optim["weight_decay"], rules))


def _lamb(o: Options, optim: Any, rules: Any) -> Transform:
    """Weight decay comes before the trust ratio, as in the paper's algorithm 2.

    Parameters that weight decay does not reach keep Adam's step, as in apex and timm.
    """
    always = o.pop("always_adapt")
    adapted = jax.tree.map(lambda r: always or r.decayed, rules)
    return optax.chain(
        optax.scale_by_adam(**o),
        _decay(optim["weight_decay"], rules),
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
    return optax.chain(per_layer(optax.chain(*steps), rules), _decay(optim["weight_decay"], rules))


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
        _decay(optim["weight_decay"], rules),
    )
    names = ("b1", "b2", "eps", "eps_root", "nesterov")
    adam_decay = o["adam_weight_decay"]
    adam = optax.chain(
        optax.scale_by_adam(**{name: o[f"adam_{name}"] for name in names}, mu_dtype=o["mu_dtype"]),
        _decay(optim["weight_decay"] if adam_decay is None else adam_decay, rules),
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
    "lion": _lion,
    "muon": _muon,
}
