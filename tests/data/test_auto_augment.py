"""RandAugment, AutoAugment and 3-Augment: timm's pixels for the same choices, and its law."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import natural, photograph
from tests.data.timm_augment import HPARAMS, timm_augment, timm_draws  # noqa: F401 - a fixture
from vit_jax.data.auto_augment import POLICIES, AutoAugment, pairs
from vit_jax.data.geometry import Sampling
from vit_jax.data.magnitude import COLOR, GEOMETRY, PLAIN, Change
from vit_jax.data.rand_augment import RandAugment, changes, settings
from vit_jax.data.three_augment import ThreeAugment
from vit_jax.data.transforms import Target, build_transform

FILL = HPARAMS["img_mean"]
SAMPLING = Sampling(HPARAMS["interpolation"], FILL)
TARGET = Target((90, 120), 3, HPARAMS["interpolation"])
PICTURES = {"photograph": photograph(), "synthetic": natural(90, 120)}
IMAGES = [Image.fromarray(p) for p in PICTURES.values()]


@pytest.fixture(params=IMAGES, ids=list(PICTURES))
def image(request):
    return request.param


def rng(seed=0):
    return np.random.default_rng(seed)


def same(ours, theirs, message=""):
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=message)


@pytest.mark.parametrize("name", [*PLAIN, *COLOR, *GEOMETRY])
def test_every_change_equals_timm(name, image, timm_draws):  # noqa: F811
    """At magnitudes of the whole range and beyond, in both directions."""
    results = set()
    for seed, magnitude in enumerate([0, 0.7, 2, 3, 5, 5.5, 8, 9, 10, 10, 10, 13, 17.5]):
        hparams = HPARAMS | {"magnitude_max": 20}
        theirs = timm_augment.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)
        timm_draws(rng(seed))
        ours = Change(name, 1.0, magnitude, limit=20)(image, rng(seed), SAMPLING)
        same(ours, theirs(image), f"magnitude {magnitude}")
        results.add(ours.tobytes())
    assert (len(results) == 1) == (name in PLAIN)


RAND = [
    "m9-mstd0.5-inc1",
    "m9-mstd0.5",
    "m10-n3-p1",
    "m7-n4-mstd101-inc1",
    "m15-mmax20-mstd2",
    "n1",
]


@pytest.mark.parametrize("config", RAND)
def test_rand_augment_equals_timm(config, image, timm_draws):  # noqa: F811
    theirs = timm_augment.rand_augment_transform(f"rand-{config}", dict(HPARAMS))
    ours = RandAugment(config, FILL)
    for seed in range(30):
        timm_draws(rng(seed))
        same(ours(image, rng(seed), TARGET), theirs(image), f"seed {seed}")


@pytest.mark.parametrize("mstd", [0, 0.5])
@pytest.mark.parametrize("policy", POLICIES)
def test_auto_augment_equals_timm(policy, mstd, image, timm_draws):  # noqa: F811
    config = f"{policy}-mstd{mstd}" if mstd else policy
    theirs = timm_augment.auto_augment_transform(config, dict(HPARAMS))
    ours = AutoAugment(policy, mstd, FILL)
    for seed in range(40):
        timm_draws(rng(seed))
        same(ours(image, rng(seed), TARGET), theirs(image), f"seed {seed}")


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_timms(policy):
    theirs = timm_augment.auto_augment_policy(policy)
    assert [[(c.name, c.p, c.magnitude) for c in pair] for pair in pairs(policy, 0.0)] == [
        [(op.name, op.prob, op.magnitude) for op in pair] for pair in theirs
    ]


def test_three_augment_equals_timm(image, timm_draws):  # noqa: F811
    theirs = timm_augment.auto_augment_transform("3a", dict(HPARAMS))
    for seed in range(20):
        timm_draws(rng(seed))
        same(ThreeAugment()(image, rng(seed), TARGET), theirs(image), f"seed {seed}")


def test_three_augment_is_each_of_the_three_equally_often():
    picture = Image.fromarray(natural(12, 12))
    solarized = np.asarray(picture.point([v if v < 128 else 255 - v for v in range(256)] * 3))
    grey = np.asarray(picture.convert("L").convert("RGB"))
    generator, counts = rng(), {"solarized": 0, "grey": 0, "blurred": 0}
    for _ in range(900):
        array = np.asarray(ThreeAugment()(picture, generator, TARGET))
        kinds = {"solarized": (array == solarized).all(), "grey": (array == grey).all()}
        counts[next((k for k, is_it in kinds.items() if is_it), "blurred")] += 1
    assert all(abs(n - 300) < 5 * 14.2 for n in counts.values())


# The law, apart from timm's code.


def test_magnitudes_are_normal_and_clipped():
    change, generator, n = Change("Rotate", 0.5, 9, mstd=0.5), rng(), 20000
    drawn = np.array([change.draw_magnitude(generator) for _ in range(n)])
    clipped = (drawn == 10).mean()  # above 10: two standard deviations, 2.275 %
    assert abs(clipped - 0.02275) < 5 * (0.02275 / n) ** 0.5
    free = drawn[drawn < 9]  # the lower half is not clipped: |z| has mean sqrt(2 / pi)
    assert abs(len(free) / n - 0.5) < 5 * 0.5 / n**0.5
    assert abs((9 - free).mean() - 0.5 * (2 / np.pi) ** 0.5) < 5 * 0.5 / len(free) ** 0.5


def test_magnitudes_above_a_deviation_of_100_are_uniform():
    change, generator, n = Change("Rotate", 0.5, 8, mstd=101), rng(), 5000
    drawn = np.sort([change.draw_magnitude(generator) for _ in range(n)]) / 8
    assert np.abs(drawn - (np.arange(n) + 0.5) / n).max() < 1.95 / n**0.5


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_change_is_made_with_its_probability(p):
    picture = Image.new("L", (1, 1), 10)
    change, generator, n = Change("Invert", p, 10), rng(), 2000
    made = sum(change(picture, generator, SAMPLING) is not picture for _ in range(n))
    assert abs(made - n * p) <= 5 * (n * p * (1 - p)) ** 0.5


def test_increasing_changes_are_none_at_magnitude_0(image):
    for change in changes("m0-p1-inc1"):
        if change.name not in (*PLAIN, "PosterizeIncreasing"):
            same(change(image, rng(), SAMPLING), image, change.name)
    kept = changes("m0-p1-inc1")[4](image, rng(), SAMPLING)  # Posterize starts from 4 bits
    same(kept, np.asarray(image) & 0xF0)


def test_settings():
    assert dataclasses.asdict(settings("rand-m9-mstd0.5-inc1")) == {
        "m": 9,
        "n": 2,
        "p": 0.5,
        "mstd": 0.5,
        "mmax": 10,
        "inc": 1,
    }


# In transforms.

SPECS = ["rand_augment('m9-mstd0.5-inc1')", "auto_augment('v0')", "auto_augment", "three_augment"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_coloured_pictures_keep_their_shape(spec, channels):
    picture = natural(20, 30)[:, :, :channels]
    transform = build_transform(f"resize | {spec} | flip", (8, 8), channels)
    results = {transform(picture, rng(seed)).tobytes() for seed in range(100)}
    assert len(results) > 15
    assert transform(picture, rng()).shape == (8, 8, channels)


@pytest.mark.parametrize("spec", SPECS)
def test_the_generator_decides_everything(spec):
    transform = build_transform(spec, (20, 30))
    picture = natural(20, 30)
    for seed in range(10):
        np.testing.assert_array_equal(transform(picture, rng(seed)), transform(picture, rng(seed)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rand_augment", "missing a required argument: 'config'"),
        ("rand_augment('m9-w2')", "unknown setting 'w'"),
        ("rand_augment('m11')", "m is 11: expected 0 to 10, or a larger mmax"),
        ("rand_augment('m9.5')", "m is 9.5: expected a whole number"),
        ("rand_augment('m9-m8')", "m is given twice"),
        ("rand_augment('m9--inc1')", "'' is not a name and a number, such as 'm9'"),
        ("rand_augment('original')", "'original' is not a name and a number"),
        ("rand_augment('m-1')", "'m' is not a name and a number"),
        ("rand_augment('n0')", "n is 0 and mmax 10: expected 1 or more"),
        ("rand_augment('p1.5')", "p is 1.5: expected a probability"),
        ("rand_augment('inc2')", "inc is 2: expected 0 or 1"),
        ("rand_augment(9)", "config is 9: expected text such as 'm9-mstd0.5-inc1'"),
        ("rand_augment('m9', fill=256)", "fill is 256: expected a whole number from 0 to 255"),
        ("rand_augment('m9', fill=(1, 2))", r"fill is \(1, 2\): expected a whole number"),
        ("auto_augment('v1')", "unknown policy 'v1': did you mean 'v0"),
        ("auto_augment('original-mstd0.5')", "unknown policy .*: did you mean 'original"),
        ("auto_augment(mstd=-1)", "mstd is -1: expected a number from 0 to 10"),
        ("auto_augment(fill='mean')", "fill is 'mean': expected a whole number"),
        ("three_augment(0.3)", r"too many positional arguments; three_augment takes \(\)"),
    ],
)
def test_a_wrong_spec_is_an_error_at_once(spec, message):
    with pytest.raises(ValueError, match=message):
        build_transform(spec, 8)


@pytest.mark.parametrize("spec", SPECS)
def test_alpha_is_an_error(spec):
    transform = build_transform(spec, 8, channels=4)
    with pytest.raises(ValueError, match=r"of a picture of 4 channels: expected 1 \(grey\) or 3"):
        transform(np.zeros((8, 8, 4), np.uint8), rng())


def test_errors_of_filling_and_interpolation():
    grey = np.zeros((8, 8, 1), np.uint8)
    transform = build_transform("auto_augment(fill=(1, 2, 3))", 8, channels=1)
    with pytest.raises(ValueError, match=r"fill is \(1, 2, 3\) and the picture has 1 channel"):
        transform(grey, rng())
    transform = build_transform("auto_augment", 8, channels=1, interpolation="lanczos")
    with pytest.raises(ValueError, match="interpolation 'lanczos' cannot rotate or shear: expect"):
        transform(grey, rng())
