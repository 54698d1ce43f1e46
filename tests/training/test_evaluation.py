import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny
from vit_jax.data import Source
from vit_jax.errors import UserError
from vit_jax.training.evaluation import Evaluator
from vit_jax.training.experiment import Experiment
from vit_jax.training.resolve import resolve


class Numbered(Source):
    """Images that each show their own number; none of them is black."""

    class_names = tuple("0123456789")
    fingerprint = "numbered"

    def __init__(self, length):
        self._length = length

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        image = np.full((8, 8, 1), index + 1, np.uint8)
        return {"image": image, "label": index % 10, "name": str(index)}


def evaluator(length, devices, batch_size, **options):
    config = tiny.get_config()
    config.data.eval_batch_size = batch_size
    config.data.update(mean=(0.0,), std=(1.0,), **options)
    experiment = Experiment(resolve(config, 100, 10), devices=jax.devices()[:devices])
    return Evaluator(experiment, Numbered(length))


def number_of(batch):
    return jnp.round(batch["image"][:, 0, 0, 0] * 255)


def per_example(params, extra, batch):
    number = number_of(batch)
    return {
        "one": jnp.ones_like(number),
        "number": number,
        "square": number**2,
        "nan_where_padded": number / number,
        "scaled": params * number + extra,
    }


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("length, batch_size", [(37, 16), (37, 40), (32, 16), (1, 8), (200, 24)])
def test_every_example_counts_exactly_once(devices, length, batch_size):
    means = evaluator(length, devices, batch_size).masked_means(per_example, 2.0, 1.0)
    numbers = np.arange(1, length + 1)
    assert means["one"] == 1
    assert means["number"] * length == pytest.approx(numbers.sum(), abs=1e-6)
    assert means["square"] * length == pytest.approx((numbers**2).sum(), rel=1e-6)
    assert means["nan_where_padded"] == 1
    assert means["scaled"] == pytest.approx(2 * numbers.mean() + 1, rel=1e-6)


def test_a_function_is_compiled_once():
    calls = []

    def counted(params, extra, batch):
        calls.append(1)
        return {"one": number_of(batch)}

    evaluate = evaluator(20, 8, 8)
    first, second = (evaluate.masked_means(counted, 0, 0) for _ in range(2))
    assert first == second
    assert len(calls) == 1


def test_a_missing_example_is_noticed():
    evaluate = evaluator(20, 8, 8)
    evaluate._check_counts(20, 0)
    evaluate._check_counts(1, 19)
    for seen, skipped in ((19, 0), (21, 0), (18, 1), (20, 1)):
        message = f"saw {seen} examples and skipped {skipped}, of a split of 20"
        with pytest.raises(RuntimeError, match=message):
            evaluate._check_counts(seen, skipped)
    with pytest.raises(UserError, match="none of the 20 examples"):
        evaluate._check_counts(0, 20)


@pytest.mark.parametrize("devices", [1, 8])
def test_what_cannot_be_decoded_counts_for_nothing(devices, monkeypatch):
    evaluate = evaluator(20, devices, 8, on_error="skip")
    original, bad = Numbered.__getitem__, (3, 17)

    def read(self, index):
        example = original(self, index)
        return {**example, "image": b"no picture"} if index in bad else example

    for _ in range(2):  # counts are of one evaluation each
        monkeypatch.setattr(Numbered, "__getitem__", read)
        means = evaluate.masked_means(per_example, 2.0, 1.0)
        assert evaluate.skipped == 2
        good = [i + 1 for i in range(20) if i not in bad]
        assert (means["one"], means["number"]) == (1, pytest.approx(np.mean(good), rel=1e-6))
    monkeypatch.undo()
    evaluate.masked_means(per_example, 2.0, 1.0)
    assert evaluate.skipped == 0


def test_a_number_that_is_not_finite_is_said_loudly():
    evaluate = evaluator(2000, 8, 8)
    results = {"loss": 0.5, "top1": 0.25, "top5": 1.0}
    assert evaluate.report(7, results).startswith("step 7, test, 2,000 examples: ")
    assert "WARNING" not in evaluate.report(7, results)
    for wrong in (float("nan"), float("inf")):
        text = evaluate.report(7, {**results, "loss": wrong})
        assert f"\nWARNING: loss is {wrong}; trust no number" in text
