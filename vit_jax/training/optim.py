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

import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from vit_jax import naming
from vit_jax.training import param_rules
from vit_jax.training.per_layer import per_layer
from vit_jax.training.schedules import Schedule, make_schedule

_PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")

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


# What an option may be: words for the error, and the test.
Range = tuple[str, Callable[[Any], bool]]


def _number(expected: str, fits: Callable[[Any], bool]) -> Range:
    return expected, lambda x: isinstance(x, numbers.Real) and math.isfinite(x) and fits(x)


def _whole(least: int) -> Range:
    expected = f"a whole number, {least} or more"
    return expected, lambda x: isinstance(x, numbers.Integral) and x >= least


def _or_none(of: Range) -> Range:
    return f"{of[0]}, or None", lambda x: x is None or of[1](x)


def _is_float_dtype(x: Any) -> bool:
    try:
        return jnp.issubdtype(jnp.dtype(x), jnp.floating)
    except TypeError:  # no dtype at all
        return False


_POSITIVE = _number("more than 0", lambda x: x > 0)
_NOT_NEGATIVE = _number("0 or more", lambda x: x >= 0)
_AVERAGE = _number("0 <= x < 1", lambda x: 0 <= x < 1)  # decay of a moving average
_SHARE = _number("0 < x <= 1", lambda x: 0 < x <= 1)
_DTYPE = _or_none(("a floating-point dtype such as 'bfloat16'", _is_float_dtype))

# Of every option that is a number or a dtype, of whichever optimizer.
OPTION_RANGES: dict[str, Range] = {
    "lr": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "clip_norm": _or_none(_POSITIVE),
    "b1": _AVERAGE,
    "b2": _AVERAGE,
    "beta": _AVERAGE,
    "momentum": _AVERAGE,
    "beta2_cap": _SHARE,
    "decay_rate": _SHARE,  # Shazeer & Stern 2018, section 7.2
    "decay_offset": _whole(0),
    "eps": _POSITIVE,
    "eps_root": _NOT_NEGATIVE,
    "min_dim_size_to_factor": _whole(1),
    "clipping_threshold": _or_none(_POSITIVE),
    "ns_steps": _whole(1),
    "consistent_rms": _or_none(_POSITIVE),
    "mu_dtype": _DTYPE,
    "accumulator_dtype": _DTYPE,
    "dtype_momentum": _DTYPE,
    "adam_b1": _AVERAGE,
    "adam_b2": _AVERAGE,
    "adam_eps": _POSITIVE,
    "adam_eps_root": _NOT_NEGATIVE,
    "adam_lr": _or_none(_POSITIVE),
    "adam_weight_decay": _or_none(_NOT_NEGATIVE),
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
      ValueError: unknown optimizer or option (the nearest are named), or a value out of range.
    """
    optim = config.optim
    options = optimizer_options(optim)
    _check_ranges("optim", {name: optim[name] for name in ("lr", "weight_decay", "clip_norm")})
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
      ValueError: unknown optimizer or option (the nearest are named), or a value out of range.
    """
    name = optim["name"]
    naming.check_known("optimizer", [name], OPTIMIZER_DEFAULTS)
    given = optim.get(name, {})
    naming.check_known(f"option of {name}", given, OPTIMIZER_DEFAULTS[name])
    _check_ranges(f"optim.{name}", given)
    return {**OPTIMIZER_DEFAULTS[name], **given}


def _check_ranges(section: str, options: Options) -> None:
    """Raises ValueError for the first value that is not in its range."""
    for name, value in options.items():
        expected, fits = OPTION_RANGES.get(name, ("", lambda _: True))
        if not fits(value):
            raise ValueError(f"{section}.{name} is {value!r}; expected {expected}")


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
        raise ValueError("optim.sgd.nesterov needs optim.sgd.momentum, which is 0")
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
    if np.ndim(o["ns_coeffs"]) not in (1, 2) or np.shape(o["ns_coeffs"])[-1] != 3:
        raise ValueError(
            f"optim.muon.ns_coeffs is {o['ns_coeffs']}; expected three numbers, or three for each "
            "of ns_steps steps"
        )
    naming.check_known("preconditioning of muon", [o["preconditioning"]], _PRECONDITIONINGS)
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
