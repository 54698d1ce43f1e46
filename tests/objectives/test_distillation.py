"""Distillation against PyTorch's losses; what the teacher sees; runs, resumed and with a mesh."""

import re
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vit_jax
from tests.applied import apply
from tests.training import tiny
from vit_jax import models
from vit_jax.convert import folder
from vit_jax.errors import UserError
from vit_jax.models import Preprocessing
from vit_jax.objectives import Surroundings, build_objective, objective_defaults
from vit_jax.objectives.distillation import Distillation, hard_loss, soft_loss
from vit_jax.objectives.teacher import FunctionTeacher, ModelTeacher
from vit_jax.training import config as config_lib
from vit_jax.training import run_folder
from vit_jax.training.checkpoint import record_of, saved_steps
from vit_jax.training.experiment import Experiment
from vit_jax.training.load_teacher import load_model
from vit_jax.training.resolve import resolve

CLASSES = 10
MEAN, STD = (0.5,), (0.5,)
SIZE = dict(img_size=8, patch_size=4, in_chans=1, embed_dim=16, depth=1, num_heads=2)


def vit(**overrides):
    return vit_jax.create_model(
        "vit_tiny_patch16_224", **{**SIZE, "num_classes": CLASSES, **overrides}
    )


def drawn(module, size=(8, 8), seed=0):
    """Every parameter from a Gaussian: a fresh head is zero and says nothing."""
    images = jnp.zeros((1, *size, module.in_chans))
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(8, 8, 8, 1)).astype(np.float32)
    return {"image": jnp.asarray(image), "label": jnp.arange(8)}


TEACHING = jnp.asarray(np.random.default_rng(5).normal(size=(64, CLASSES)), jnp.float32)


def function(images):
    """A linear teacher."""
    return images.reshape(len(images), -1) @ TEACHING


def distillation(module, **options):
    teacher = FunctionTeacher(function, "linear", CLASSES)
    base = vit_jax.objectives.build_classification(
        module, **{k: options.pop(k) for k in list(options) if k in ("label_smoothing", "loss")}
    )
    return Distillation(
        base.module, base.example_loss, base.label_smoothing, teacher=teacher, **options
    )


# The losses.


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_both_losses_are_those_of_deits_program(tau):
    """`DistillationLoss` of its authors; "soft" there is divided by the classes as well."""
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 16, CLASSES)).astype(np.float32) * 3
    s, t = torch.from_numpy(student), torch.from_numpy(teacher)
    kl = F.kl_div(
        F.log_softmax(s / tau, dim=1),
        F.log_softmax(t / tau, dim=1),
        reduction="sum",
        log_target=True,
    )
    expected = kl * tau * tau / s.numel() * CLASSES
    np.testing.assert_allclose(soft_loss(student, teacher, tau).mean(), expected, rtol=1e-5)
    expected = F.cross_entropy(s, t.argmax(dim=1))
    np.testing.assert_allclose(hard_loss(student, teacher).mean(), expected, rtol=1e-5)


def test_a_teacher_that_gives_no_answer_stops_the_run_and_one_that_rules_out_does_not():
    student = jnp.zeros((2, 3))
    silent = jnp.array([[0.0, jnp.nan, 1.0], [0.0, 1.0, 2.0]])
    assert list(np.isnan(hard_loss(student, silent))) == [True, False]
    assert list(np.isnan(soft_loss(student, silent, 1.0))) == [True, False]
    certain = jnp.array([[0.0, -jnp.inf, 0.0], [5.0, -jnp.inf, -jnp.inf]])
    expected = [np.log(3 / 2), np.log(3)]
    np.testing.assert_allclose(soft_loss(student, certain, 1.0), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("token", "kind"), [(True, "hard"), (True, "soft"), (False, "hard"), (False, "soft")]
)
def test_each_head_has_its_own_target(batch, token, kind):
    module = vit(dist_token=token)
    options = dict(kind=kind, alpha=0.3, tau=2.0, label_smoothing=0.1)
    objective = distillation(module, **options)
    params = drawn(module)
    capture = ("features", "heads") if token else ("features",)
    both, seen = apply(module, params, batch["image"], capture=capture)
    heads = [
        np.asarray(seen.features[:, i] @ params[name]["kernel"] + params[name]["bias"])
        for i, name in enumerate(("head", "head_dist")[: 1 + token])
    ]
    if token:
        np.testing.assert_allclose(seen.heads, np.stack(heads, 1), rtol=1e-5, atol=1e-5)
    own, distilled = heads[0], heads[-1]
    taught = np.asarray(function(batch["image"]))
    label = np.array(batch["label"])
    smooth = F.cross_entropy(
        torch.tensor(own), torch.tensor(label).long(), label_smoothing=0.1
    ).item()
    teacher = (
        hard_loss(distilled, taught) if kind == "hard" else soft_loss(distilled, taught, 2.0)
    ).mean()
    loss, (metrics, extra) = objective.loss(params, {}, batch, jax.random.key(0), 0)
    np.testing.assert_allclose(loss, 0.7 * smooth + 0.3 * teacher, rtol=1e-5)
    assert extra == {}
    np.testing.assert_allclose(metrics["loss_label"], smooth, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_teacher"], teacher, rtol=1e-5)
    assert metrics["teacher_top1"] == (taught.argmax(-1) == label).mean()
    # At evaluation, the mean of both heads; and without the teacher.
    values = objective.evaluate(params, {}, batch)
    result = np.mean(heads, axis=0)
    np.testing.assert_allclose(both, result, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(values["top1"], result.argmax(-1) == label)


def test_the_teacher_sees_what_is_mixed_and_the_hard_guess_is_not(batch):
    seen = []

    def watching(images):
        seen.append(images)
        return function(images)

    module = vit()
    options = dict(mixup_alpha=1.0, cutmix_alpha=1.0, mixup_mode="elem")
    config = types.SimpleNamespace(
        objective={"name": "classification", "label_smoothing": 0.1, **options}
    )
    base = build_objective(config, module)
    fields = (base.module, base.example_loss, base.label_smoothing, base.mixing)
    teacher = FunctionTeacher(watching, None, CLASSES)
    objective = Distillation(*fields, teacher=teacher)
    params, key = drawn(module), jax.random.key(3)
    _, (metrics, _) = objective.loss(params, {}, batch, key, 0)
    mixed = base.mixed(batch, key)
    np.testing.assert_array_equal(seen[0], mixed["image"])
    plain, _ = base.loss(params, {}, batch, key, 0)
    np.testing.assert_allclose(metrics["loss_label"], plain, rtol=1e-6)
    logits = apply(module, params, mixed["image"])
    expected = hard_loss(logits, function(mixed["image"])).mean()
    np.testing.assert_allclose(metrics["loss_teacher"], expected, rtol=1e-6)


# What a model that teaches is given.


def taught_by(module, preprocessing, student=None, **options):
    model = folder.Model(module, drawn(module, models.vit.pair(module.img_size)), preprocessing)
    return ModelTeacher(lambda: model, "it", student or vit(), MEAN, STD, **options), model


def test_its_normalisation_takes_the_place_of_the_students():
    own = Preprocessing(mean=(0.2, 0.3, 0.4), std=(0.1, 0.2, 0.3))
    student = vit(in_chans=3)
    teacher, model = taught_by(vit(in_chans=3), own, student)
    pixels = np.random.default_rng(0).uniform(size=(4, 8, 8, 3)).astype(np.float32)
    params = teacher.constants().arrays["teacher"]
    got = teacher.logits(params, jnp.asarray((pixels - MEAN[0]) / STD[0], jnp.float32))
    theirs = jnp.asarray((pixels - own.mean) / own.std, jnp.float32)
    expected = apply(model.module, model.params, theirs)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(got, apply(model.module, model.params, pixels), atol=0.1)


def test_pictures_of_another_size_are_resized(batch):
    grey = Preprocessing(interpolation="bilinear")
    teacher, model = taught_by(vit(img_size=(12, 16)), grey)
    params = teacher.constants().arrays["teacher"]
    resized = jax.image.resize(batch["image"], (8, 12, 16, 1), "bilinear", antialias=True)
    expected = model.module.apply({"params": model.params}, resized)
    np.testing.assert_array_equal(teacher.logits(params, batch["image"]), expected)
    same, model = taught_by(vit(), grey)
    expected = model.module.apply({"params": model.params}, batch["image"])
    got = same.logits(same.constants().arrays["teacher"], batch["image"])
    np.testing.assert_array_equal(got, expected)  # not touched where nothing differs


def test_it_gets_no_gradient_and_computes_in_its_own_dtype(batch):
    teacher, model = taught_by(vit(), Preprocessing(), dtype="bfloat16")
    module = vit(dist_token=True)
    base = vit_jax.objectives.build_classification(module)
    objective = Distillation(module, base.example_loss, teacher=teacher, kind="soft")
    params, constants = drawn(module), objective.constants().arrays

    def loss(params, taught):
        return objective.loss(params, {}, {**batch, **taught}, jax.random.key(0), 0)[0]

    grads, of_teacher = jax.jit(jax.grad(loss, (0, 1)))(params, constants)
    assert all(np.abs(x).max() > 0 for name, x in flat(grads) if "qkv/bias" not in name)
    assert not any(np.asarray(x).any() for _, x in flat(of_teacher))
    plain = model.module.apply({"params": model.params}, batch["image"])
    rough = teacher.logits(constants["teacher"], batch["image"])
    difference = np.abs(rough - plain).max() / np.abs(plain).max()
    assert 1e-5 < difference < 0.1


def flat(tree):
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    ]


def test_the_fingerprint_is_of_every_bit_and_of_the_preprocessing():
    prints = set()
    module = vit()
    params = drawn(module)
    changed = jax.tree.map(np.copy, params)
    changed["encoder"]["blocks_0"]["norm1"]["scale"].view(np.int32)[3] ^= 1
    for tree, prep in (
        (params, Preprocessing()),
        (changed, Preprocessing()),
        (params, Preprocessing(mean=(0.4,))),
    ):
        model = folder.Model(module, tree, prep)
        teacher = ModelTeacher(lambda model=model: model, "it", module, MEAN, STD)
        prints.add(teacher.constants().fingerprint)
    again = ModelTeacher(
        lambda: folder.Model(module, drawn(module), Preprocessing()), "", module, MEAN, STD
    )
    assert len(prints) == 3 and again.constants().fingerprint in prints


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 7}, "has num_classes=7, the student 10"),
        ({"in_chans": 3}, "has in_chans=3, the student 1"),
    ],
)
def test_a_teacher_of_other_classes_or_channels_is_refused(options, message):
    teacher, _ = taught_by(vit(**options), Preprocessing())
    with pytest.raises(UserError, match=re.escape(message)):
        teacher.constants()


def test_a_function_that_gives_something_else_is_refused(batch):
    teacher = FunctionTeacher(lambda images: images[:, 0, 0], "mine", CLASSES)
    with pytest.raises(UserError, match=r"mine gave an array of \(8, 1\).*expected logits of"):
        teacher.logits(None, batch["image"])


# The configuration.

SURROUNDINGS = Surroundings(MEAN, STD, load_model)


def build(**options):
    config = types.SimpleNamespace(objective={"name": "distillation", **options})
    return build_objective(config, vit(), SURROUNDINGS)


def test_it_takes_the_options_of_classification_too():
    options = objective_defaults("distillation")
    assert set(objective_defaults("classification")) < set(options)
    objective = build(
        teacher=f"python:{__name__}:function", mixup_alpha=0.8, loss="sigmoid", kind="soft"
    )
    assert objective.mixing.mixup_alpha == 0.8 and objective.kind == "soft"
    assert objective.constants().fingerprint == f"python:{__name__}:function"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "objective.teacher is None; expected the teacher"),
        ({"teacher": "x", "alpha": 1.5}, "objective.alpha is 1.5"),
        ({"teacher": "x", "tau": 0.0}, "objective.tau is 0.0"),
        ({"teacher": "x", "kind": "medium"}, "one of 'hard', 'soft'"),
        ({"teacher": "x", "teacher_dtype": "int8"}, "floating-point dtype"),
        ({"teacher": "x", "teecher_dtype": "int8"}, "did you mean 'teacher_dtype'"),
        ({"teacher": "x", "mixup_alpha": -1.0}, "objective.mixup_alpha is -1.0"),
        ({"teacher": "python:no.such:thing"}, "No module named 'no'"),
        ({"teacher": f"python:{__name__}:nothing"}, "has no attribute 'nothing'"),
        ({"teacher": "python:"}, "expected python:MODULE:FUNCTION"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(**options)


def test_without_surroundings_it_says_so():
    config = types.SimpleNamespace(objective={"name": "distillation", "teacher": "x"})
    with pytest.raises(UserError, match="surroundings"):
        build_objective(config, vit())


# Runs.


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory):
    """A convolutional teacher, converted; its images are larger and normalised otherwise."""
    path = tmp_path_factory.mktemp("teacher") / "resnet"
    module = vit_jax.create_model(
        "resnetv2_50x1_bit",
        layers=(1,),
        width=32,
        stem="small",
        in_chans=1,
        img_size=10,
        num_classes=CLASSES,
    )
    params = drawn(module)
    prep = Preprocessing(mean=(0.3,), std=(0.3,))
    vit_jax.save_pretrained(path, module, {"params": params}, preprocessing=prep)
    return path


def recipe(teacher, **overrides):
    config = tiny.get_config()
    config.total_steps = 4
    config.eval_every_steps = config.checkpoint.every_steps = 2
    config.model.update(depth=1, embed_dim=16, scan=False)
    config.model.update(class_token=True, dist_token=True, global_pool="token")
    config.objective.name = "distillation"
    config.objective.update(teacher=str(teacher), mixup_alpha=0.8, cutmix_alpha=1.0)
    config.update(overrides)
    return config


@pytest.mark.slow
def test_a_run_is_resumed_with_its_teacher_and_no_other(tmp_path, teacher_folder):
    """Its checkpoints hold no teacher, and evaluation needs none."""
    own = tmp_path / "teacher"
    shutil.copytree(teacher_folder, own)
    config = recipe(own)
    workdir = tmp_path / "run"
    result = vit_jax.train(config, workdir)
    lines = (workdir / "metrics.jsonl").read_text()
    assert "loss_teacher" in lines and "teacher_top1" in lines
    checkpoints = run_folder.checkpoints_dir(workdir)
    assert saved_steps(checkpoints)[-1] == 4
    record = record_of(checkpoints, 4)
    assert record.arrays and not any("stages_0" in name for name in record.arrays)
    assert len(record.notes["constants"]) == 64

    shutil.rmtree(checkpoints / "4")
    again = vit_jax.train(config, workdir)
    for ours, theirs in zip(jax.tree.leaves(again.state), jax.tree.leaves(result.state)):
        np.testing.assert_array_equal(ours, theirs)

    shutil.rmtree(checkpoints / "4")
    shutil.rmtree(own)
    assert vit_jax.evaluate(workdir, report=lambda _: None)["top1"] >= 0
    model = load_model(str(workdir))  # and a run's model can teach in its turn
    assert model.module.dist_token and model.params["head_dist"]["kernel"].shape == (16, CLASSES)
    module, variables = vit_jax.from_pretrained(teacher_folder)
    bias = variables["params"]["head"]["bias"].at[0].add(1e-6)
    variables["params"]["head"]["bias"] = bias
    prep = Preprocessing(mean=(0.3,), std=(0.3,))
    vit_jax.save_pretrained(own, module, variables, preprocessing=prep)
    with pytest.raises(UserError, match="the teacher is not that of the run"):
        vit_jax.train(config, workdir)


@pytest.mark.slow
def test_a_step_is_the_same_on_any_mesh(teacher_folder):
    """One update on one device, and on eight over which the teacher is split too."""
    results = []
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (32, 8, 8, 1), np.uint8),
        "label": rng.integers(0, CLASSES, 32),
    }
    for devices, sizes in ((1, (1, 1, 1)), (8, (2, 2, 2))):
        config = recipe(
            teacher_folder, mesh={**dict(zip(("data", "fsdp", "tensor"), sizes)), "sequence": 1}
        )
        config.objective.update(mixup_alpha=0.0, cutmix_alpha=0.0)
        experiment = Experiment(resolve(config, 1437, CLASSES), jax.devices()[:devices])
        with experiment.activate():
            step = experiment.train_step()
            kernel = step.constants["teacher"]["stages_0_blocks_0"]["conv3"]["kernel"]
            assert len(kernel.sharding.device_set) == devices
            assert kernel.addressable_shards[0].data.size * min(devices, 2) == kernel.size
            state = experiment.state_factory.create()
            placed = jax.device_put(batch, experiment.batch_sharding)
            results.append(step(state, placed)[1])
    assert set(results[0]) >= {"loss_label", "loss_teacher", "teacher_top1"}
    for name in ("loss", "loss_teacher", "gradient_norm", "teacher_top1"):
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-5)


def test_the_json_of_a_configuration_keeps_the_teacher(teacher_folder):
    config = recipe(teacher_folder)
    back = config_lib.from_json(config_lib.to_json(config))
    assert back.objective.teacher == str(teacher_folder)
