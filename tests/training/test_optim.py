"""Each optimizer against an implementation that shares nothing with it, in float64."""

import importlib
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from ml_collections import ConfigDict

from tests.models import timm_oracle  # noqa: F401 - makes timm importable without CUDA
from vit_jax.models import stack_blocks
from vit_jax.training.optim import (
    OPTIMIZER_DEFAULTS,
    OPTION_RANGES,
    learning_rate,
    make_optimizer,
)

timm_optim = importlib.import_module("timm.optim")
STEPS = 5
LR = 0.05
DECAY = 0.1


def make_config(name, schedule=None, lr=LR, weight_decay=0.0, clip_norm=None, **options):
    optim = dict(name=name, lr=lr, weight_decay=weight_decay, clip_norm=clip_norm)
    optim |= {key: dict(value) for key, value in OPTIMIZER_DEFAULTS.items()}
    optim[name] |= options
    return ConfigDict({"optim": optim, "schedule": schedule or {"name": "constant"}})


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


# A decayed matrix, a vector that is not decayed.
SHAPES = {"fc": {"kernel": (6, 4), "bias": (4,)}}


def run(config, params, gradients):
    """Parameters after each of the given gradients, in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        optimizer = make_optimizer(config, params, total_steps=STEPS, steps_per_epoch=1)
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        history = []
        for grads in gradients:
            updates, state = update(jax.tree.map(jnp.asarray, grads), state, params)
            params = optax.apply_updates(params, updates)
            history.append(jax.tree.map(np.asarray, params))
        return history


def run_torch(optimizer_class, params, gradients, weight_decay, **options):
    """The same with a torch optimizer: kernels decay, biases do not."""
    leaves = {name: torch.tensor(x, requires_grad=True) for name, x in params["fc"].items()}
    groups = [
        {"params": [leaves["kernel"]], "weight_decay": weight_decay},
        {"params": [leaves["bias"]], "weight_decay": 0.0},
    ]
    optimizer = optimizer_class(groups, lr=LR, **options)
    history = []
    for grads in gradients:
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(grads["fc"][name])
        optimizer.step()
        history.append({"fc": {k: x.detach().numpy().copy() for k, x in leaves.items()}})
    return history


def assert_same(ours, theirs, rtol=1e-10):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-13), a, b)


@pytest.fixture
def problem():
    return draw(SHAPES), [draw(SHAPES, seed) for seed in range(1, STEPS + 1)]


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_adamw_is_that_of_torch(problem, decay):
    options = dict(b1=0.8, b2=0.95, eps=1e-3)
    ours = run(make_config("adamw", weight_decay=decay, **options), *problem)
    theirs = run_torch(torch.optim.AdamW, *problem, decay, betas=(0.8, 0.95), eps=1e-3)
    assert_same(ours, theirs)


def test_nesterov_adamw_is_that_of_dozat(problem):
    # Dozat 2016 with constant momentum: the next step's bias correction for the momentum, this
    # step's for the gradient.
    params, gradients = problem
    b1, b2, eps = 0.9, 0.999, 1e-8

    def leaf(x, grads):
        m = v = 0
        out = []
        for t, g in enumerate(grads, start=1):
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
            x = x - LR * m_hat / (np.sqrt(v / (1 - b2**t)) + eps)
            out.append(x)
        return out

    theirs = leaf(params["fc"]["kernel"], [g["fc"]["kernel"] for g in gradients])
    ours = run(make_config("adamw", nesterov=True), *problem)
    assert_same([x["fc"]["kernel"] for x in ours], theirs)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_that_of_torch(problem, nesterov):
    ours = run(make_config("sgd", momentum=0.8, nesterov=nesterov), *problem)
    theirs = run_torch(torch.optim.SGD, *problem, 0.0, momentum=0.8, nesterov=nesterov)
    assert_same(ours, theirs)


def test_sgd_without_momentum_and_with_decoupled_decay(problem):
    params, gradients = problem
    expected = dict(params["fc"])
    ours = run(make_config("sgd", momentum=0.0, weight_decay=DECAY), *problem)
    for grads in gradients:
        expected["kernel"] = expected["kernel"] * (1 - LR * DECAY) - LR * grads["fc"]["kernel"]
        expected["bias"] = expected["bias"] - LR * grads["fc"]["bias"]
    assert_same(ours[-1:], [{"fc": expected}])


def test_lion_is_that_of_its_paper(problem):
    # Chen et al. 2023, algorithm 2.
    params, gradients = problem
    b1, b2 = 0.9, 0.99
    expected = {}
    for name, decay in (("kernel", DECAY), ("bias", 0.0)):
        x, m = params["fc"][name], 0
        for grads in gradients:
            g = grads["fc"][name]
            x = x - LR * (np.sign(b1 * m + (1 - b1) * g) + decay * x)
            m = b2 * m + (1 - b2) * g
        expected[name] = x
    ours = run(make_config("lion", weight_decay=DECAY, b1=b1, b2=b2), *problem)
    assert_same(ours[-1:], [{"fc": expected}])


@pytest.mark.parametrize("always_adapt", [False, True])
def test_lamb_is_that_of_timm(problem, always_adapt):
    ours = run(make_config("lamb", weight_decay=DECAY, always_adapt=always_adapt), *problem)
    theirs = run_torch(
        timm_optim.Lamb, *problem, DECAY, always_adapt=always_adapt, max_grad_norm=None
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize("always_adapt", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_is_that_of_maes_linear_probe(problem, always_adapt, nesterov):
    """A step's gradient, decay included, gets the length of its parameter times 0.001."""
    params, gradients = problem
    expected = {}
    for name, decay in (("kernel", DECAY), ("bias", 0.0)):
        x, velocity = params["fc"][name], 0.0
        for grads in gradients:
            step = grads["fc"][name] + decay * x
            if decay or always_adapt:
                step = step * 0.001 * np.linalg.norm(x) / np.linalg.norm(step)
            velocity = 0.9 * velocity + step
            x = x - LR * (step + 0.9 * velocity if nesterov else velocity)
        expected[name] = x
    options = dict(always_adapt=always_adapt, nesterov=nesterov)
    ours = run(make_config("lars", weight_decay=DECAY, **options), *problem)
    assert_same(ours[-1:], [{"fc": expected}])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_dim_size_to_factor": 2},
        {"min_dim_size_to_factor": 2, "clipping_threshold": 0.5, "beta2_cap": 0.3},
        {"min_dim_size_to_factor": 2, "momentum": 0.0, "decay_rate": 0.6},
        {"decay_offset": 2},
    ],
)
def test_adafactor_is_big_visions_as_in_timm(problem, options):
    ours = run(
        make_config("adafactor", weight_decay=DECAY, dtype_momentum="float64", **options), *problem
    )
    defaults = {"min_dim_size_to_factor": 32, "momentum_dtype": torch.float64}
    theirs = run_torch(timm_optim.AdafactorBigVision, *problem, DECAY, **{**defaults, **options})
    # timm counts steps, and so the second moment's decay, in float32.
    assert_same(ours, theirs, rtol=1e-5)


def test_adafactor_of_2018_is_that_of_its_paper(problem):
    # Shazeer & Stern 2018, algorithm 4, for a matrix.
    params, gradients = problem
    x = params["fc"]["kernel"]
    rows = columns = 0
    for t, grads in enumerate(gradients, start=1):
        g = grads["fc"]["kernel"]
        beta = 1 - t**-0.8
        rows = beta * rows + (1 - beta) * (g**2 + 1e-30).mean(1)
        columns = beta * columns + (1 - beta) * (g**2 + 1e-30).mean(0)
        u = g / np.sqrt(np.outer(rows, columns) / rows.mean())
        u = u / max(1, np.sqrt((u**2).mean()) / 1.0)
        x = x - LR * max(1e-3, np.sqrt((x**2).mean())) * u
    ours = run(
        make_config(
            "adafactor",
            min_dim_size_to_factor=2,
            beta2_cap=1.0,
            clipping_threshold=1.0,
            multiply_by_parameter_scale=True,
            momentum=0.0,
        ),
        *problem,
    )
    assert_same([ours[-1]["fc"]["kernel"]], [x])


# A block of 8 channels with 2 heads, its patch embedding and head.
BLOCK = {
    "norm1": {"scale": (8,), "bias": (8,)},
    "attn": {
        "qkv": {"kernel": (8, 3, 2, 4), "bias": (3, 2, 4)},
        "proj": {"kernel": (2, 4, 8), "bias": (8,)},
    },
    "mlp": {"fc1": {"kernel": (8, 2, 12), "bias": (2, 12)}, "fc2": {"kernel": (12, 8)}},
}
VIT = {
    "patch_embed": {"kernel": (4, 4, 3, 8), "bias": (8,)},
    "cls_token": (1, 1, 8),
    "encoder": {"blocks_0": BLOCK, "blocks_1": BLOCK, "blocks_2": BLOCK},
    "head": {"kernel": (8, 5), "bias": (5,)},
}
# Newton-Schulz iteration for the polar factor: converges, unlike Jordan's coefficients.
EXACT = dict(ns_coeffs=(15 / 8, -10 / 8, 3 / 8), ns_steps=16)


def polar(x):
    """The nearest orthogonal matrix, by singular values."""
    u, _, v = np.linalg.svd(x, full_matrices=False)
    return u @ v


def muon_steps(**options):
    params, grads = draw(VIT), draw(VIT, 1)
    (after,) = run(make_config("muon", **options), params, [grads])
    return params, grads, jax.tree.map(lambda a, b: (a - b) / -LR, after, params)


def test_muon_orthogonalises_every_matrix_by_itself():
    _, grads, step = muon_steps(**EXACT)
    block, g = step["encoder"]["blocks_1"], grads["encoder"]["blocks_1"]

    def check(update, gradient):
        rows, columns = gradient.shape
        scale = max(1, columns / rows) ** 0.5
        np.testing.assert_allclose(update, scale * polar(gradient), atol=1e-7)

    for i in range(3):  # queries, keys, values
        check(
            block["attn"]["qkv"]["kernel"][:, i].reshape(8, 8),
            g["attn"]["qkv"]["kernel"][:, i].reshape(8, 8),
        )
    for i in range(2):  # gate and value
        check(block["mlp"]["fc1"]["kernel"][:, i], g["mlp"]["fc1"]["kernel"][:, i])
    check(block["mlp"]["fc2"]["kernel"], g["mlp"]["fc2"]["kernel"])
    check(block["attn"]["proj"]["kernel"].reshape(8, 8), g["attn"]["proj"]["kernel"].reshape(8, 8))
    check(
        step["patch_embed"]["kernel"].reshape(48, 8), grads["patch_embed"]["kernel"].reshape(48, 8)
    )


def test_muon_with_jordans_coefficients_is_nearly_orthogonal():
    _, _, step = muon_steps()
    qkv = step["encoder"]["blocks_0"]["attn"]["qkv"]["kernel"]
    for i in range(3):
        values = np.linalg.svd(qkv[:, i].reshape(8, 8), compute_uv=False)
        assert values.min() > 0.3 and values.max() < 1.3
    # All three as one 8 x 24 matrix are not: that would be the wrong matrix.
    together = np.linalg.svd(qkv.reshape(8, 24), compute_uv=False)
    assert together.max() > 1.3


def test_muon_at_a_consistent_root_mean_square():
    _, _, step = muon_steps(consistent_rms=0.2, **EXACT)
    for kernel, wide in (
        (step["encoder"]["blocks_0"]["mlp"]["fc2"]["kernel"], 12),
        (step["patch_embed"]["kernel"].reshape(48, 8), 48),
    ):
        assert np.linalg.norm(kernel, 2) == pytest.approx(0.2 * wide**0.5)
        # Of 8 orthogonal columns of length 1, scaled: rms = 0.2.
        assert np.sqrt((kernel**2).mean()) == pytest.approx(0.2)


def test_what_is_not_a_matrix_to_muon_takes_adams_step():
    options = dict(adam_b1=0.8, adam_b2=0.9, adam_eps=1e-3)
    params, gradients = draw(VIT), [draw(VIT, seed) for seed in range(1, STEPS + 1)]
    muon = run(make_config("muon", weight_decay=DECAY, **options), params, gradients)[-1]
    adam_options = {key.removeprefix("adam_"): value for key, value in options.items()}
    adam = run(make_config("adamw", weight_decay=DECAY, **adam_options), params, gradients)[-1]
    for name in ("head", "cls_token"):
        assert_same([muon[name]], [adam[name]])
    block, expected = muon["encoder"]["blocks_0"], adam["encoder"]["blocks_0"]
    assert_same([block["norm1"]], [expected["norm1"]])
    assert_same([block["attn"]["qkv"]["bias"]], [expected["attn"]["qkv"]["bias"]])
    assert not np.allclose(block["mlp"]["fc2"]["kernel"], expected["mlp"]["fc2"]["kernel"])


def test_muons_adam_may_have_its_own_rate_and_decay():
    params, gradients = draw(VIT), [draw(VIT, 1)]
    muon = run(make_config("muon", adam_lr=0.3, adam_weight_decay=0.7), params, gradients)
    adam = run(make_config("adamw", lr=0.3, weight_decay=0.7), params, gradients)
    assert_same([muon[0]["head"]], [adam[0]["head"]])


def test_muon_is_optaxs_where_optax_takes_the_parameter():
    params, gradients = draw({"fc": {"kernel": (6, 4)}}), []
    gradients = [draw({"fc": {"kernel": (6, 4)}}, seed) for seed in range(1, STEPS + 1)]
    ours = run(make_config("muon", weight_decay=DECAY), params, gradients)
    with jax.enable_x64(True):
        optimizer = optax.contrib.muon(LR, weight_decay=DECAY)
        x = jax.tree.map(jnp.asarray, params)
        state = optimizer.init(x)
        for grads in gradients:
            updates, state = optimizer.update(jax.tree.map(jnp.asarray, grads), state, x)
            x = optax.apply_updates(x, updates)
        assert_same(ours[-1:], [jax.tree.map(np.asarray, x)])


@pytest.mark.parametrize("name", OPTIMIZER_DEFAULTS)
def test_scanned_blocks_train_as_unrolled_ones(name):
    options = {"min_dim_size_to_factor": 2, "dtype_momentum": "float64"}
    options = options if name == "adafactor" else {}
    if name == "adafactor":
        options |= {"clipping_threshold": 0.5, "multiply_by_parameter_scale": True}
    config = make_config(name, weight_decay=DECAY, clip_norm=1.0, **options)
    params, gradients = draw(VIT), [draw(VIT, seed) for seed in (1, 2)]
    unrolled = run(config, params, gradients)[-1]
    with jax.enable_x64(True):
        expected = jax.tree.map(np.asarray, stack_blocks(unrolled))
        params, *gradients = (
            jax.tree.map(np.asarray, stack_blocks(tree)) for tree in (params, *gradients)
        )
    stacked = run(config, params, gradients)[-1]
    assert_same([stacked], [expected])


@pytest.mark.parametrize("name", OPTIMIZER_DEFAULTS)
def test_weight_decay_reaches_kernels_alone(name):
    params, gradients = draw(VIT), [draw(VIT, 1)]
    with_decay = run(make_config(name, weight_decay=DECAY), params, gradients)[0]
    without = run(make_config(name), params, gradients)[0]
    differs = jax.tree.map(lambda a, b: not np.array_equal(a, b), with_decay, without)
    for path, differs_here in jax.tree_util.tree_leaves_with_path(differs):
        assert differs_here == (path[-1].key == "kernel"), path


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "muon"])
def test_weight_decay_is_lr_times_decay_times_parameter(name):
    params, gradients = draw(VIT), [draw(VIT, 1)]
    with_decay = run(make_config(name, weight_decay=DECAY), params, gradients)[0]
    without = run(make_config(name), params, gradients)[0]
    kernel = lambda tree: tree["encoder"]["blocks_2"]["mlp"]["fc2"]["kernel"]  # noqa: E731
    np.testing.assert_allclose(
        kernel(with_decay), kernel(without) - LR * DECAY * kernel(params), rtol=1e-10
    )


@pytest.mark.parametrize("clip_norm", [0.1, 1e6])
def test_clipping_bounds_the_global_norm(problem, clip_norm):
    params, gradients = problem
    ours = run(make_config("sgd", momentum=0.0, clip_norm=clip_norm), params, gradients[:1])
    grads = gradients[0]["fc"]
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    factor = min(1, clip_norm / norm)
    expected = {k: params["fc"][k] - LR * factor * grads[k] for k in grads}
    assert_same(ours, [{"fc": expected}])


def test_the_learning_rate_follows_the_schedule(problem):
    params, gradients = problem
    config = make_config("sgd", momentum=0.0, schedule={"name": "linear", "warmup_steps": 2})
    lr = learning_rate(config, total_steps=STEPS, steps_per_epoch=1)
    np.testing.assert_allclose(
        [lr(i) for i in range(STEPS)], LR * np.array([0, 0.5, 1, 2 / 3, 1 / 3]), rtol=1e-6
    )
    expected = params["fc"]["bias"]
    for i, (ours, grads) in enumerate(zip(run(config, params, gradients), gradients)):
        expected = expected - float(lr(i)) * grads["fc"]["bias"]
        np.testing.assert_allclose(ours["fc"]["bias"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("adamw", "mu_dtype"),
        ("sgd", "accumulator_dtype"),
        ("adafactor", "dtype_momentum"),
        ("lamb", "mu_dtype"),
        ("lion", "mu_dtype"),
        ("muon", "mu_dtype"),
    ],
)
def test_the_first_moment_may_have_another_dtype(name, option):
    params = jax.tree.map(lambda x: x.astype(np.float32), draw(VIT))
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        optimizer = make_optimizer(make_config(name, **{option: dtype}), params, STEPS, 1)
        state = jax.eval_shape(optimizer.init, params)
        sizes[dtype] = sum(x.size for x in jax.tree.leaves(state) if x.dtype == jnp.bfloat16)
        # The state's dtypes survive an update, or the second step would compile anew.
        _, after = jax.eval_shape(optimizer.update, params, state, params)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )
    assert sizes == {"float32": 0, "bfloat16": sum(x.size for x in jax.tree.leaves(params))}


def test_every_option_of_optax_is_there():
    common = {"learning_rate", "weight_decay", "mask"}
    builders = {
        "adamw": (optax.adamw, common),
        "sgd": (optax.sgd, common),
        "adafactor": (optax.adafactor, common | {"weight_decay_rate", "weight_decay_mask"}),
        "lamb": (optax.lamb, common),
        "lars": (optax.lars, common | {"weight_decay_mask", "trust_ratio_mask", "eps"}),
        "lion": (optax.lion, common),
        "muon": (
            optax.contrib.muon,
            common
            | {"weight_decay_mask", "muon_weight_dimension_numbers", "adam_learning_rate"}
            | {"adaptive"},  # left out: see the module's text
        ),
    }
    assert set(builders) == set(OPTIMIZER_DEFAULTS)
    for name, (builder, left_out) in builders.items():
        missing = set(inspect.signature(builder).parameters) - left_out
        missing -= set(OPTIMIZER_DEFAULTS[name])
        assert not missing, (name, missing)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("unknown optimizer 'adamv': did you mean 'adamw'", {"name": "adamv"}),
        ("unknown option of adamw 'beta1': did you mean .*b1", {"adamw": {"beta1": 0.9}}),
        (
            "unknown option of lion 'eps': expected one of 'b1', 'b2'",
            {"name": "lion", "lion": {"eps": 1}},
        ),
        (
            "ns_coeffs is 'dion'; expected a tuple of 3 entries",
            {"name": "muon", "muon": {"ns_coeffs": "dion"}},
        ),
        (
            "ns_coeffs has 2 triples; expected one, or one for each of optim.muon.ns_steps=5",
            {"name": "muon", "muon": {"ns_coeffs": ((1, 2, 3), (4, 5, 6))}},
        ),
        (
            "optim.muon.preconditioning is 'spectrum'; expected one of 'frobenius', 'spectral'",
            {"name": "muon", "muon": {"preconditioning": "spectrum"}},
        ),
        ("optim.adamw.nesterov is 1; expected True or False", {"adamw": {"nesterov": 1}}),
        ("optim.lr is 0; expected a number above 0", {"lr": 0}),
        ("optim.lr is True; expected a number above 0", {"lr": True}),
        ("optim.weight_decay is -1; expected a number, 0 or more", {"weight_decay": -1}),
        ("optim.clip_norm is 0; expected a number above 0, or None", {"clip_norm": 0}),
        ("nesterov needs", {"name": "sgd", "sgd": {"momentum": 0.0, "nesterov": True}}),
        (r"optim\.lr is nan; expected a number above 0", {"lr": float("nan")}),
        (r"optim\.clip_norm is 'x'; expected a number above 0, or None", {"clip_norm": "x"}),
    ],
)
def test_mistakes_in_the_config_are_named(problem, message, change):
    optim = {"name": "adamw", "lr": 0.1, "weight_decay": 0.0, "clip_norm": None, **change}
    config = ConfigDict({"optim": optim, "schedule": {}})
    with pytest.raises(ValueError, match=message):
        make_optimizer(config, problem[0], STEPS, 1)


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("adamw.b1", [2, -0.1, "0.9"], [0, 0.99]),
        ("adamw.b2", [1.0, float("nan")], [0.0]),
        ("adamw.eps", [-1, 0, float("inf")], [1e-12]),
        ("adamw.eps_root", [-1e-9], [0, 1e-9]),
        ("adamw.mu_dtype", ["bf16", "int8"], ["bfloat16", None]),
        ("sgd.momentum", [1, -0.5], [0]),
        ("sgd.accumulator_dtype", ["half precision"], ["float16"]),
        ("adafactor.decay_rate", [-1, 0, 1.5], [1]),
        ("adafactor.decay_offset", [-1, 0.5], [100]),
        ("adafactor.beta2_cap", [0, 1.1], [1.0]),
        ("adafactor.min_dim_size_to_factor", [0, 2.5], [1]),
        ("adafactor.clipping_threshold", [0], [1, None]),
        ("adafactor.dtype_momentum", ["bf16"], [None]),
        ("lion.b1", [-3], [0.5]),
        ("lamb.b2", [1], [0.5]),
        ("muon.ns_steps", [0, 1.5], [1]),
        ("muon.beta", [1], [0.5]),
        ("muon.consistent_rms", [0, -0.2], [0.2, None]),
        ("muon.adam_b2", [1.0], [0.5]),
        ("muon.adam_lr", [0], [1e-3, None]),
        ("muon.adam_weight_decay", [-1], [0, None]),
    ],
)
def test_a_value_out_of_range_is_named(problem, key, wrong, right):
    name, option = key.split(".")
    params = jax.tree.map(np.float32, problem[0])
    for value in wrong:
        message = rf"optim\.{name}\.{option} is {re.escape(repr(value))}; expected "
        with pytest.raises(ValueError, match=message):
            make_optimizer(make_config(name, **{option: value}), params, STEPS, 1)
    for value in right:
        config = make_config(name, **{option: value})
        make_optimizer(config, params, STEPS, 1).init(params)


def test_every_option_has_a_range_that_its_default_is_in():
    for name, options in OPTIMIZER_DEFAULTS.items():
        for option, default in options.items():
            assert OPTION_RANGES[option].fits(default), (name, option)
            assert not OPTION_RANGES[option].fits({}), (name, option)
