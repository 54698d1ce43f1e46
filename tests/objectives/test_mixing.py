"""Mixup and CutMix against timm's, given its draws; the law of our own; and the mesh."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats

from tests.applied import NOT_QUICK
from vit_jax.convert.torch_libraries import import_library
from vit_jax.errors import UserError
from vit_jax.objectives import build_objective, losses, mixing
from vit_jax.objectives.mixing import Mixing
from vit_jax.training import sharding

B, H, W, CLASSES = 16, 12, 10, 5
N = 4096  # rows, for laws
# Partners: rows i and i + 4 of each eight. timm's are the first and the last row, and so on: the
# order in which it has to see ours.
PARTNER = np.arange(B) ^ 4
FIRST = [i for i in range(B) if i < PARTNER[i]]
TIMM_ORDER = np.array(FIRST + [PARTNER[i] for i in reversed(FIRST)])


@pytest.fixture(scope="module")
def timm_mixup():
    return import_library("timm", "this test").data.mixup


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(B, H, W, 3)).astype(np.float32)
    return {"image": jnp.asarray(image), "label": jnp.asarray(rng.integers(0, CLASSES, B))}


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def draw_of(mix, key, rows, size):
    return mix.draw(key, rows, size)


def draws(options, key=0, rows=B, size=(H, W)):
    return draw_of(Mixing(**options), jax.random.key(key), rows, size)


@functools.partial(jax.jit, static_argnums=0)
def mix_batch(mix, batch, key):
    """What is drawn, and what comes of it."""
    return mix.draw(key, len(batch["label"]), batch["image"].shape[1:3]), mix(batch, CLASSES, key)


# Compiling a draw takes seconds: the same options serve several tests.
BOTH = [
    Mixing(mixup_alpha=0.8, cutmix_alpha=1.0, mixup_prob=0.8, mixup_mode=mode, cutmix_minmax=minmax)
    for mode, minmax in (("batch", None), ("pair", None), ("elem", None), ("elem", (0.2, 0.8)))
]


# Against timm.


def in_turn(values):
    values = iter(values)
    return lambda *args, **kwargs: next(values)


def timm_result(module, batch, draw, mode, smoothing, monkeypatch):
    """What timm makes of the batch in its order, with our draws in the place of NumPy's."""
    import torch

    draw = jax.tree.map(np.asarray, draw)
    cuts = draw.bottom > draw.top
    lam = np.where(cuts, draw.share, draw.weight).astype(np.float32)
    rows = TIMM_ORDER[: {"batch": 1, "pair": B // 2, "elem": B}[mode]]
    mixup = module.Mixup(1, 1, mode=mode, label_smoothing=smoothing, num_classes=CLASSES)
    if mode == "batch":
        monkeypatch.setattr(mixup, "_params_per_batch", lambda: (float(lam[0]), bool(cuts[0])))
    else:
        monkeypatch.setattr(mixup, "_params_per_elem", lambda n: (lam[rows], cuts[rows]))
    boxes = [
        ((draw.top[i], draw.bottom[i], draw.left[i], draw.right[i]), draw.share[i])
        for i in rows
        if cuts[i] and lam[i] != 1
    ]
    monkeypatch.setattr(module, "cutmix_bbox_and_lam", in_turn(boxes))
    image = torch.from_numpy(np.array(batch["image"])[TIMM_ORDER].transpose(0, 3, 1, 2).copy())
    label = torch.from_numpy(np.array(batch["label"], np.int64)[TIMM_ORDER])
    monkeypatch.setattr(module, "one_hot", _one_hot_on_the_cpu)
    mixed, target = mixup(image, label)
    back = np.argsort(TIMM_ORDER)
    return mixed.numpy().transpose(0, 2, 3, 1)[back], target.numpy()[back]


def _one_hot_on_the_cpu(x, num_classes, on_value=1.0, off_value=0.0):
    import torch

    full = torch.full((len(x), num_classes), off_value)
    return full.scatter_(1, x.long().view(-1, 1), on_value)


@pytest.mark.parametrize("mix", BOTH)
def test_pictures_and_labels_are_timms(timm_mixup, batch, mix, monkeypatch):
    kinds = set()
    for seed in range(6):
        draw, ours = mix_batch(mix, batch, jax.random.key(seed))
        kinds |= set(np.unique((draw.bottom > draw.top) * 2 + (draw.weight < 1)))
        theirs = timm_result(timm_mixup, batch, draw, mix.mixup_mode, 0.1, monkeypatch)
        np.testing.assert_allclose(ours["image"], theirs[0], atol=1e-6)
        # The objective smooths what is mixed, timm mixes what is smoothed.
        target = losses.targets(ours["label"], jnp.zeros((B, CLASSES)), 0.1)
        np.testing.assert_allclose(target, theirs[1], atol=1e-6)
    assert {1, 2} <= kinds  # both were seen; never both at once
    assert 3 not in kinds


def test_the_box_around_a_centre_is_timms(timm_mixup, monkeypatch):
    rng = np.random.default_rng(0)
    for height, width in ((224, 224), (8, 13)):
        for lam in rng.uniform(size=50).astype(np.float32):
            centres = rng.integers(0, height), rng.integers(0, width)
            fake = types.SimpleNamespace(randint=in_turn(centres))
            monkeypatch.setattr(
                timm_mixup,
                "np",
                types.SimpleNamespace(random=fake, sqrt=np.sqrt, clip=np.clip),
            )
            top, bottom, left, right = timm_mixup.rand_bbox((height, width), lam)
            ours = [
                mixing.box_around(jnp.int32(centre), jnp.float32(lam), side)
                for centre, side in zip(centres, (height, width))
            ]
            np.testing.assert_array_equal(ours, [(top, bottom), (left, right)])


# Invariants.


@pytest.mark.parametrize("mix", BOTH)
def test_lambda_is_what_the_box_leaves_and_labels_sum_to_one(batch, mix):
    for seed in range(6):
        draw, mixed = mix_batch(mix, batch, jax.random.key(seed))
        cut = np.asarray(draw.bottom > draw.top)
        area = (draw.bottom - draw.top) * (draw.right - draw.left)
        np.testing.assert_allclose(draw.share[cut], 1 - area[cut] / (H * W), atol=1e-6)
        np.testing.assert_array_equal(draw.weight[cut], 1)
        np.testing.assert_array_equal(draw.share[~cut], draw.weight[~cut])
        np.testing.assert_allclose(mixed["label"].sum(-1), 1, atol=1e-6)
        # Every pixel is that of one of the two; the partner's are as many as the label says.
        image, other = batch["image"][cut], batch["image"][PARTNER][cut]
        own, foreign = ((mixed["image"][cut] == x).all(-1) for x in (image, other))
        assert (own ^ foreign).all()
        np.testing.assert_allclose(foreign.mean((1, 2)), 1 - draw.share[cut], atol=1e-6)
        untouched = ~cut & (np.asarray(draw.weight) == 1)
        np.testing.assert_array_equal(mixed["image"][untouched], batch["image"][untouched])


def test_without_correction_lambda_is_as_drawn():
    options = dict(cutmix_alpha=1.0, mixup_mode="elem")
    corrected = draws(options, rows=N)
    plain = draws({**options, "mixup_correct_lam": False}, rows=N)
    np.testing.assert_array_equal(corrected.top, plain.top)
    assert (corrected.share >= plain.share - 1e-6).mean() > 0.99  # borders only cut boxes
    assert (corrected.share > plain.share + 0.1).any()
    # What remains without the border: sides are rounded down to whole pixels.
    assert stats.kstest(np.asarray(plain.share), stats.beta(1, 1).cdf).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 2.0])
def test_lambda_of_mixup_is_beta(alpha):
    draw = draws(dict(mixup_alpha=alpha, mixup_mode="elem"), rows=N)
    np.testing.assert_array_equal(draw.share, draw.weight)
    assert not (draw.bottom - draw.top).any()
    # Kolmogorov-Smirnov: above 1.95 / sqrt(n) once in a thousand. Between the ends: what is closer
    # to one than float32 can say (9 % of the draws for 0.1) is one.
    t = np.linspace(1e-3, 1 - 1e-3, 999)
    below = (np.asarray(draw.share)[:, None] <= t).mean(0)
    assert np.abs(below - stats.beta(alpha, alpha).cdf(t)).max() < 1.95 / N**0.5


def test_how_often_and_which():
    options = dict(mixup_alpha=0.8, cutmix_alpha=1.0, mixup_mode="elem")
    draw = draws({**options, "mixup_prob": 0.6, "mixup_switch_prob": 0.3}, rows=N, size=(64, 64))
    mixes, cuts = np.asarray(draw.weight < 1), np.asarray(draw.bottom > draw.top)
    for seen, expected in ((cuts, 0.6 * 0.3), (mixes, 0.6 * 0.7)):
        # A Beta(1, 1) box has no pixel once in 64^2 draws; five standard deviations.
        assert abs(seen.mean() - expected) < 5 * (expected * (1 - expected) / N) ** 0.5


def test_minmax_bounds_both_sides_and_reaches_both_ends():
    draw = draws(dict(cutmix_minmax=(0.25, 0.75), mixup_mode="elem"), rows=N, size=(16, 24))
    sides = draw.bottom - draw.top, draw.right - draw.left
    # timm's upper end is not included.
    assert [(int(s.min()), int(s.max())) for s in sides] == [(4, 11), (6, 17)]
    for first, last, length in ((draw.top, draw.bottom, 16), (draw.left, draw.right, 24)):
        assert int(first.min()) == 0 and int(last.max()) == length


def test_what_shares_a_draw(batch):
    for mix, groups in zip(BOTH, (1, B // 2, B, B)):
        for seed in range(6):
            draw = mix_batch(mix, batch, jax.random.key(seed))[0]
            rows = np.stack(jax.tree.leaves(draw), 1)
            unmixed = (rows[:, :2] == 1).all(1).any()
            assert len(np.unique(rows, axis=0)) == groups or (groups > 1 and unmixed)
            if mix.mixup_mode == "pair":
                np.testing.assert_array_equal(rows, rows[PARTNER])


@pytest.mark.parametrize("rows", [2, 6, 12, 24])
def test_partners_are_others_and_each_others(rows):
    there = np.asarray(mixing.partner_of(jnp.arange(rows)))
    assert (there != np.arange(rows)).all()
    np.testing.assert_array_equal(there[there], np.arange(rows))
    if rows % 8 == 0:  # three copies side by side never mix with each other
        assert (there // 3 != np.arange(rows) // 3).all()


def test_an_unknown_label_stays_visible(batch):
    label = batch["label"].at[3].set(CLASSES)
    mixed = mix_batch(BOTH[2], {**batch, "label": label}, jax.random.key(0))[1]
    bad = np.isnan(mixed["label"]).any(-1)
    np.testing.assert_array_equal(np.flatnonzero(bad), [3, 7])


# In the objective, and over devices.


def test_randomness_is_a_function_of_the_key_and_nothing_leaves_its_device(batch):
    mix = Mixing(mixup_alpha=0.8, cutmix_alpha=1.0, mixup_mode="elem")
    batch = {name: jnp.concatenate([x] * 4) for name, x in batch.items()}  # eight rows a device
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2, "sequence": 1, "tensor": 1})
    rules = sharding.make_rules({"batch": ("data", "fsdp")})
    place, whole = sharding.batch_sharding(mesh, rules), NamedSharding(mesh, PartitionSpec())
    function = jax.jit(
        lambda b, key: mix(b, CLASSES, key),
        in_shardings=(place, whole),
        out_shardings=place,
        compiler_options=NOT_QUICK,
    )
    spread, key = jax.device_put(batch, place), jax.random.key(3)
    program = function.lower(spread, key).compile().as_text()
    moved = re.findall(
        r"(?:f32|s32)\[[\d,]*\]\S* (all-gather|collective-permute|all-to-all)", program
    )
    assert not moved
    on_one = jax.jit(mix_batch.__wrapped__, static_argnums=0, compiler_options=NOT_QUICK)
    alone = on_one(mix, batch, key)[1]
    for name, x in function(spread, key).items():
        np.testing.assert_array_equal(x, alone[name])
    other = mix_batch(mix, batch, jax.random.key(4))[1]
    assert not np.array_equal(other["image"], alone["image"])


class Flat(nn.Module):
    """A linear classifier."""

    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


def config(**objective):
    return types.SimpleNamespace(objective={"name": "classification", **objective})


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_objective_learns_from_what_is_mixed(batch, loss):
    module = Flat()
    options = dict(mixup_alpha=0.8, cutmix_alpha=1.0, mixup_mode="elem", label_smoothing=0.1)
    objective = build_objective(config(loss=loss, **options), module)
    params, extra = objective.init(jax.random.key(0), batch)
    key = jax.random.key(2)
    mixed = jax.jit(objective.mixed)(batch, key)
    assert not np.array_equal(mixed["image"], batch["image"])
    logits = module.apply({"params": params}, mixed["image"])
    target = np.asarray(mixed["label"]) * 0.9 + 0.1 / CLASSES
    if loss == "softmax":
        expected = -(target * jax.nn.log_softmax(logits)).sum(-1).mean()
    else:  # the binary cross-entropy of DeiT III on the shares of both labels
        p = jax.nn.sigmoid(logits)
        expected = -(target * jnp.log(p) + (1 - target) * jnp.log(1 - p)).mean()
    got, (metrics, _) = jax.jit(objective.loss)(params, extra, batch, key, 0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert metrics["loss"] == got
    values = objective.evaluate(params, extra, batch)  # of the pictures as they are
    plain = build_objective(config(loss=loss), module).evaluate(params, extra, batch)
    np.testing.assert_array_equal(values["loss"], plain["loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup_alpha": -0.1}, "mixup_alpha is -0.1; expected a number, 0 or more"),
        ({"cutmix_alpha": float("nan")}, "cutmix_alpha"),
        ({"mixup_prob": 1.5}, "mixup_prob is 1.5"),
        ({"mixup_switch_prob": -1}, "mixup_switch_prob"),
        ({"mixup_mode": "half"}, "one of 'batch', 'pair', 'elem'"),
        ({"cutmix_minmax": (0.5,)}, "2 entries"),
        ({"cutmix_minmax": (0.5, 0.2)}, "the smaller first"),
        ({"cutmix_minmax": (0.0, 0.2)}, "above 0"),
        ({"mixup_alfa": 0.8}, "did you mean 'mixup_alpha'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build_objective(config(**options), Flat())


def test_batches_and_pictures_that_cannot_be_mixed_are_named():
    with pytest.raises(UserError, match="two by two, the batch has 7"):
        draws(dict(mixup_alpha=1.0), rows=7)
    with pytest.raises(UserError, match="no box on a side of 4 pixels"):
        draws(dict(cutmix_minmax=(0.3, 0.35)), size=(4, 4))
