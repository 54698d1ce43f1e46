"""Training from converted weights goes where PyTorch's goes: ten steps of AdamW, in float64.

Ours are the library's own objective, optimizer and train step; theirs are `torch.optim.AdamW`,
PyTorch's clipping and a warm-up written with `LambdaLR`, on the model that the weights are from.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.convert import cases, swin_cases
from tests.convert.oracle_of import oracle_of
from vit_jax.convert import params, pretrained
from vit_jax.models import MaskedAutoencoder
from vit_jax.models.vit import pair
from vit_jax.objectives.classification import build_classification
from vit_jax.objectives.mae import build_mae
from vit_jax.training import optim, sharding
from vit_jax.training.config import base_config
from vit_jax.training.state import StateFactory, keys
from vit_jax.training.step import make_normalize, make_train_step

torch, transformers = cases.torch, cases.transformers

STEPS, WARMUP, ROWS = 10, 4, 6
LR, DECAY, CLIP = 3e-3, 0.1, 0.5
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
RULES = sharding.make_rules(base_config().sharding_rules)


def swin(version):
    """A case of Swin, without the stochastic depth that our names have in training."""

    def build(folder, dtype):
        theirs = swin_cases.transformers_folder(folder, version)
        return cases.Built(folder, theirs, "transformers", dict(drop_path_rate=0.0))

    return build


def masked_autoencoder(folder, dtype):
    """Its positions are drawn, and stay as they are on both sides."""
    config = transformers.ViTMAEConfig(**MAE, norm_pix_loss=True)
    theirs = cases.randomize(transformers.ViTMAEForPreTraining(config), dtype)
    theirs.save_pretrained(folder)
    return cases.Built(folder, theirs, "transformers")


MAE = dict(
    **dict(cases.HF, image_size=32, decoder_hidden_size=32, decoder_num_hidden_layers=1),
    decoder_num_attention_heads=2,
    decoder_intermediate_size=64,
)
FAMILIES = {
    "vit": cases.CASES["vit_classifier"],
    "vit of timm": cases.CASES["timm_vit"],
    "swin": swin(1),
    "swin v2": swin(2),
    "mae": masked_autoencoder,
}


def batches(module):
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        yield {
            "image": rng.integers(0, 256, (ROWS, *pair(module.img_size), 3), np.uint8),
            "label": rng.integers(0, cases.CLASSES, ROWS, np.int32),
        }


def config():
    config = base_config()
    config.total_steps = 40
    config.optim.update(name="adamw", lr=LR, weight_decay=DECAY, clip_norm=CLIP)
    config.schedule.update(name="linear", warmup_steps=WARMUP)
    return config


def learned(module):
    """The objective that fits a module."""
    if isinstance(module, MaskedAutoencoder):
        return build_mae(module, norm_pix_loss=True)
    return build_classification(module)


def loss_of_theirs(oracle, module, images, batch, step):
    """What their model is trained to make small, on the images `(b, c, h, w)` of a step."""
    if not isinstance(module, MaskedAutoencoder):
        labels = torch.from_numpy(batch["label"]).long()
        return torch.nn.functional.cross_entropy(oracle.output(images), labels)
    with jax.enable_x64(True):  # the noise of this step, a function of the seed and its number
        mask_key, _ = jax.random.split(jax.random.fold_in(keys(0)[1], step))
        noise = np.array(jax.random.uniform(mask_key, (ROWS, math.prod(module.grid()))))
    return oracle.module(images, noise=torch.from_numpy(noise)).loss


def train_ours(model):
    """The parameters after `STEPS` steps by path, and the norms of the gradients."""
    settings = config()
    objective = learned(model.module)
    devices = np.array(jax.devices()[:1]).reshape([1] * len(sharding.AXES))
    mesh = jax.sharding.Mesh(devices, sharding.AXES)
    optimizer = optim.make_optimizer(settings, model.params, settings.total_steps, 1.0)
    batch = {
        "image": jax.ShapeDtypeStruct((1, *pair(model.module.img_size), 3), jnp.float64),
        "label": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    factory = StateFactory(
        objective, optimizer, batch, seed=0, with_ema=False, mesh=mesh, rules=RULES
    )
    place = sharding.batch_sharding(mesh, RULES)
    step = make_train_step(
        objective,
        optimizer,
        optim.learning_rate(settings, settings.total_steps, 1.0),
        make_normalize(MEAN, STD),
        seed=0,
        accumulate=1,
        ema_decay=0.0,
        state_shardings=factory.shardings,
        batch_sharding=place,
    )
    norms = []
    with sharding.activate(mesh, factory.activation_rules):
        state = factory.create()
        state = state.replace(params=jax.device_put(model.params, factory.shardings.params))
        for one in batches(model.module):
            state, metrics = step(state, jax.device_put(one, place))
            norms.append(float(metrics["gradient_norm"]))
        return params.by_path(jax.device_get(state.params)), norms


def train_theirs(oracle, module):
    """Trains in place; the norms of the gradients."""
    theirs = oracle.module
    linear = (torch.nn.Linear, torch.nn.Conv2d)
    decayed = {id(m.weight) for m in theirs.modules() if isinstance(m, linear)}
    weights = [p for p in theirs.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if id(p) in decayed], "weight_decay": DECAY},
        {"params": [p for p in weights if id(p) not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.999), eps=1e-8)
    total = config().total_steps

    def factor(step):
        """Linear from 0 over the warm-up, then linear down to 0 at the end."""
        return step / WARMUP if step < WARMUP else (total - step) / (total - WARMUP)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in (MEAN, STD))
    norms = []
    for step, batch in enumerate(batches(module)):
        images = (torch.from_numpy(batch["image"]).double() / 255 - mean) / std
        loss = loss_of_theirs(oracle, module, images.permute(0, 3, 1, 2), batch, step)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(clip(weights)))
        optimizer.step()
        schedule.step()
    return norms


def clip(weights):
    """`torch.nn.utils.clip_grad_norm_` without the 1e-6 that it adds to the norm it divides by.

    That term makes gradients smaller by 1e-7 here, and after ten steps parameters differ by more
    than what is compared.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in weights])
    torch.nn.utils.clip_grads_with_norm_(weights, CLIP * (norm + 1e-6) / norm, norm)
    return norm


@pytest.fixture
def unoptimised():
    """The step runs ten times: it is compiled for less long than it would take to be made fast."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("family", FAMILIES)
def test_ten_steps_of_adamw(tmp_path, family):
    built = FAMILIES[family](tmp_path, torch.float32)
    with jax.enable_x64(True):
        model, _ = pretrained.load(built.path, param_dtype="float64", scan=True, **built.options)
        oracle = oracle_of(built, model)
        before = params.by_path(model.params)
        ours, our_norms = train_ours(model)
    theirs = oracle.module.double()
    their_norms = train_theirs(oracle, model.module)
    np.testing.assert_allclose(our_norms, their_norms, rtol=1e-8)
    assert max(their_norms) > CLIP  # so that clipping is put to the test
    expected = oracle.to_ours(
        oracle.named(dict(theirs.named_parameters())), model.module, "float64"
    )
    assert set(ours) == set(expected)
    for path, value in expected.items():
        scale = np.abs(value).max()
        assert np.abs(ours[path] - value).max() <= 1e-8 * scale, path
        moved = np.abs(value - before[path]).max() > 1e-4 * scale
        assert moved == (path not in getattr(model.module, "fixed_params", ())), path
