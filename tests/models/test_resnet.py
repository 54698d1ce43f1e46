"""BiT's ResNet and timm's are the same function, in float64: logits and every gradient."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import vit_jax
from tests.models import timm_oracle as oracle
from vit_jax.errors import UserError

TINY = dict(layers=(2, 1), width=32, num_classes=5)
NAME = "resnetv2_50x1_bit"


def timm_model(layers, width, num_classes):
    resnetv2 = oracle.timm.models.resnetv2
    return resnetv2.ResNetV2(
        layers,
        channels=[4 * width * 2**i for i in range(len(layers))],
        stem_chs=width,
        num_classes=num_classes,
        stem_type="fixed",  # this and the next as in `resnetv2_*_bit`
        conv_layer=functools.partial(resnetv2.StdConv2d, eps=1e-8),
    )


def ours(tensors):
    """timm's named tensors in our tree."""
    tree = {}
    for name, x in tensors.items():
        *path, leaf = name.split(".")
        where = ".".join(path)
        where = re.sub(r"stages\.(\d+)\.blocks\.(\d+)\.", r"stages_\1_blocks_\2/", where)
        where = where.replace("stem.conv", "conv_stem").replace("downsample.conv", "conv_shortcut")
        where = where.replace("head.fc", "head")
        node = functools.reduce(
            lambda node, part: node.setdefault(part, {}), where.split("/"), tree
        )
        if x.ndim == 4:
            kernel = x.transpose(2, 3, 1, 0)
            node["kernel"] = kernel[0, 0] if where == "head" else kernel
        else:
            node["scale" if leaf == "weight" else "bias"] = x
    return tree


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("size", [(32, 32), (37, 54)])
def test_logits_and_gradients_equal_timms(size):
    theirs = oracle.randomize(timm_model(**TINY))
    rng = np.random.default_rng(0)
    images, target = rng.normal(size=(2, *size, 3)), rng.normal(size=(2, 5))
    logits = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    (logits * torch.from_numpy(target)).sum().backward()

    module = vit_jax.create_model(NAME, **TINY, param_dtype="float64")
    params = ours(oracle.weights(theirs))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *size, 3)))["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)

    def loss(params):
        logits = module.apply({"params": params}, jnp.asarray(images), train=True)
        return (logits * target).sum(), logits

    grads, found = jax.jit(jax.grad(loss, has_aux=True))(params)
    expected = logits.detach().numpy()
    assert found.dtype == np.float64
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-10
    worst, path = oracle.worst_relative(grads, ours(oracle.gradients(theirs)))
    assert worst <= 1e-8, path


@pytest.mark.parametrize("name", vit_jax.list_models("resnetv2*"))
def test_named_models_have_as_many_parameters_as_timms(name):
    module = vit_jax.create_model(name)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    with torch.device("meta"):
        theirs = oracle.timm.create_model(name)
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))
    assert count == sum(p.numel() for p in theirs.parameters())
    expected = jax.tree.map(np.shape, ours(_as_arrays(theirs)))
    assert jax.tree.map(np.shape, shapes) == expected


def _as_arrays(module):
    """Arrays of the shapes of parameters, of no memory."""
    return {k: np.broadcast_to(np.float32(0), p.shape) for k, p in module.named_parameters()}


@pytest.mark.parametrize("size", [(32, 32), (37, 54)])
def test_flops_are_those_that_pytorch_counts(size):
    theirs = timm_model(**TINY).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        theirs(torch.zeros(1, 3, *size))
    assert vit_jax.create_model(NAME, **TINY).flops(size) == counter.get_total_flops()


def test_small_images_keep_their_resolution():
    module = vit_jax.create_model(NAME, **TINY, stem="small", in_chans=1, img_size=8)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 1)))
    variables = jax.jit(module.init)(jax.random.key(0), images)
    assert variables["params"]["conv_stem"]["kernel"].shape == (3, 3, 1, 32)
    # Two stages, each half as large as the one before: 8x8 and 4x4.
    inner = {0: 32, 1: 64}
    flops = 2 * 64 * 9 * 32
    for stage, (before, after) in {0: (32, 128), 1: (128, 256)}.items():
        m, pixels, old = inner[stage], (64, 16)[stage], 64
        flops += 2 * (old * before * m + pixels * (9 * m * m + m * after + before * after))
    flops += 2 * 64 * (128 * 32 + 9 * 32 * 32 + 32 * 128)  # the second block of stage 0
    assert module.flops() == flops + 2 * 256 * 5
    head = jax.random.normal(jax.random.key(1), (256, 5))
    variables["params"]["head"]["kernel"] = head
    apply = jax.jit(module.apply, static_argnames="train")
    logits = apply(variables, images)
    # An image's logits do not depend on the batch, nor on whether the model trains.
    np.testing.assert_allclose(apply(variables, images[:1], train=True), logits[:1], 1e-9)
    headless = module.clone(num_classes=0)
    features = jax.jit(headless.apply)({"params": {**variables["params"]}}, images)
    np.testing.assert_allclose(features @ head, logits, 1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 40}, "width=40 is not divisible by the 32 groups"),
        ({"layers": ()}, "at least one"),
        ({"layers": (0,)}, "layers"),
        ({"stem": "tiny"}, "one of 'large', 'small'"),
        ({"depth": 3}, "unknown hyper-parameter"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        vit_jax.create_model(NAME, **options)


def test_images_of_another_form_are_refused():
    module = vit_jax.create_model(NAME, **TINY)
    for images in (jnp.zeros((1, 8, 8, 1)), jnp.zeros((8, 8, 3)), jnp.zeros((1, 8, 8, 3), int)):
        with pytest.raises(UserError, match="expected"):
            jax.eval_shape(module.init, jax.random.key(0), images)
