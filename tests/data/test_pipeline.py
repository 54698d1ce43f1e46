"""Batches are a function of (seed, batch number): bytes do not depend on who computes them."""

import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from tests.data.pictures import ListSource, encode, needs_photographs, photographs, smooth
from vit_jax import data
from vit_jax.data.decode import decode
from vit_jax.data.pipeline import LabelError, epoch_order
from vit_jax.data.transforms import InceptionCrop

RANDOM = "inception_crop(scale=(0.3, 1.0))|flip|random_shift(1)"
TRANSFORM = data.build_transform(RANDOM, 8)
PLAIN = data.build_transform("resize", 8)


def take(count, source, transform=TRANSFORM, **options):
    options = {"batch_size": 4, "seed": 0} | options
    with data.train_batches(source, transform, **options) as batches:
        return [next(batches) for _ in range(count)]


def joined(batches):
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def assert_same(batches, others):
    batches, others = joined(batches), joined(others)
    assert batches.keys() == others.keys()
    for name, rows in batches.items():
        np.testing.assert_array_equal(rows, others[name], err_msg=name)


def index_of(source, image):
    """Which example a row of PLAIN shows."""
    return next(i for i in range(len(source)) if np.array_equal(image, decode(source[i]["image"])))


def test_batches_have_the_stated_contents():
    batch = take(1, ListSource(10))[0]
    assert batch["image"].dtype == np.uint8
    assert batch["image"].shape == (4, 8, 8, 3)
    assert batch["label"].dtype == batch["skipped"].dtype == np.int32
    assert batch["label"].shape == batch["skipped"].shape == (4,)


def test_every_epoch_is_another_permutation_of_all_examples():
    source = ListSource(10)
    rows = joined(take(15, source, PLAIN))
    shown = np.array([index_of(source, image) for image in rows["image"]]).reshape(6, 10)
    for epoch in range(6):
        assert sorted(shown[epoch]) == list(range(10))
        np.testing.assert_array_equal(shown[epoch], epoch_order(10, 0, epoch))
    assert len({tuple(order) for order in shown}) == 6
    np.testing.assert_array_equal(rows["label"], shown.reshape(-1) % 10)


def test_orders_of_seeds_and_epochs_are_unrelated():
    """Not, for instance, seed 0's second epoch being seed 1's first."""
    orders = {tuple(epoch_order(20, seed, epoch)) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400
    places = np.array([list(order).index(0) for order in orders])
    counts = np.bincount(places, minlength=20)  # 20 each, standard deviation 4.4
    assert counts.min() > 2
    assert counts.max() < 42


def test_the_order_is_fixed_for_ever():
    """A change would give resumed runs other data: it must be a new major version."""
    assert epoch_order(8, 3, 5).tolist() == [0, 6, 2, 1, 3, 4, 7, 5]
    assert take(1, ListSource(8), seed=3)[0]["label"].tolist() == epoch_order(8, 3, 0)[:4].tolist()


def test_seeds_differ_and_repeat():
    source = ListSource(10)
    assert_same(take(2, source, seed=2**64 - 1), take(2, source, seed=2**64 - 1))
    assert_same(take(5, source, seed=7), take(5, source, seed=7))
    one, other = (joined(take(5, source, seed=seed))["image"] for seed in (7, 8))
    assert not np.array_equal(one, other)


def test_augmentation_differs_by_epoch_and_not_by_batch_size():
    source = ListSource(5)
    rows = joined(take(10, source, batch_size=5))
    by_example = [rows["image"][rows["label"] == label] for label in range(5)]
    for images in by_example:
        assert len({image.tobytes() for image in images}) > 5  # of ten epochs
    assert_same(take(10, source, batch_size=5), take(5, source, batch_size=10))


@pytest.mark.parametrize("workers", [2, 3])
def test_worker_processes_give_the_same_bytes(workers):
    source = ListSource(11)
    expected = take(12, source)
    assert_same(expected, take(12, source, workers=workers))
    assert_same(expected[5:], take(7, source, workers=workers, start_batch=5))


@pytest.mark.parametrize("start", [1, 2, 3, 7, 1000])
def test_starting_anywhere_continues(start):
    source = ListSource(10)  # batches of 4: epochs end within batches
    if start < 10:
        assert_same(take(10, source)[start:], take(10 - start, source, start_batch=start))
    else:
        epoch = start * 4 // 10
        labels = take(1, source, start_batch=start)[0]["label"]
        np.testing.assert_array_equal(labels, epoch_order(10, 0, epoch)[:4])


@pytest.mark.parametrize("count", [2, 4])
def test_hosts_together_see_what_one_sees(count):
    source = ListSource(10)
    parts = [take(6, source, rows=rows) for rows in np.split(np.arange(4), count)]
    for number, batch in enumerate(take(6, source)):
        assert_same([batch], [part[number] for part in parts])


@pytest.mark.parametrize("rows", [[1, 3], [0, 2, 3], [2]])
def test_a_host_may_need_any_rows(rows):
    """As on a TPU slice, where they are neither neighbours nor one host's alone."""
    source = ListSource(10)
    for ours, whole in zip(take(6, source, rows=rows), take(6, source)):
        assert_same([ours], [{name: x[rows] for name, x in whole.items()}])
    with (
        data.eval_batches(source, PLAIN, batch_size=4, rows=rows) as some,
        data.eval_batches(source, PLAIN, batch_size=4) as all_of_it,
    ):
        for ours, whole in zip(some, all_of_it, strict=True):
            assert_same([ours], [{name: x[rows] for name, x in whole.items()}])


@pytest.mark.parametrize("rows", [[], [4], [-1]])
def test_rows_that_there_are_not(rows):
    with pytest.raises(ValueError, match=r"expected one or more of 0 to 3"):
        take(1, ListSource(10), rows=rows)


def test_a_batch_may_be_larger_than_the_data():
    rows = joined(take(1, ListSource(3), PLAIN, batch_size=10))
    assert np.bincount(rows["label"]).min() == 3


@pytest.mark.parametrize("spec", ["random_shift(1)|flip", "inception_crop|flip"])
def test_the_cache_changes_nothing_but_the_reads(spec):
    transform = data.build_transform(spec, 8)
    source = ListSource(10)
    expected = take(15, source, transform)
    source.reads = 0
    with data.train_batches(source, transform, batch_size=4, seed=0, cache=True) as batches:
        rows = [next(batches) for _ in range(15)]
    assert_same(expected, rows)
    # Threads may read an example at the same time, once each; without the cache it is 60 or more.
    assert 10 <= source.reads <= 20


def test_the_cache_of_large_jpegs_changes_nothing():
    """Their crops are decoded at reduced scale: what is kept are the bytes."""

    class Jpegs(ListSource):
        def __init__(self):
            super().__init__(3)
            self._pictures = [encode(smooth(200, 300, seed=i), "JPEG") for i in range(3)]

    assert isinstance(TRANSFORM.operations[0], InceptionCrop)
    assert_same(take(3, Jpegs()), take(3, Jpegs(), cache=True))
    whole = data.build_transform("inception_crop(reduced=False)", 8)
    assert_same(take(3, Jpegs(), whole), take(3, Jpegs(), whole, cache=True))


# Repeated augmentation.


@pytest.mark.parametrize(("length", "repeats"), [(12, 3), (10, 3), (10, 1), (5, 2), (3, 7)])
def test_an_epoch_repeats_the_first_examples_of_its_permutation(length, repeats):
    source = ListSource(length)
    rows = joined(take(5 * length, source, PLAIN, batch_size=2, repeats=repeats))
    shown = np.array([index_of(source, image) for image in rows["image"]]).reshape(10, length)
    for epoch in range(10):
        whole = np.repeat(epoch_order(length, 0, epoch), repeats)
        np.testing.assert_array_equal(shown[epoch], whole[:length])


@pytest.mark.parametrize("hosts", [1, 4])
def test_repeats_are_the_samplers_of_timm(hosts, monkeypatch):
    """Batch by batch what all processes of RepeatAugSampler see, for the same permutation."""
    import torch

    from tests.models.timm_oracle import timm

    sampler = timm.data.distributed_sampler.RepeatAugSampler

    length, batch_size = 512, 16
    order = torch.tensor(epoch_order(length, 0, 0))
    monkeypatch.setattr(torch, "randperm", lambda n, generator: order)
    theirs = [list(sampler(range(length), hosts, rank)) for rank in range(hosts)]
    source = ListSource(length, (1, 1), labels=list(range(length)), num_classes=length)
    transform = data.build_transform("resize", 1)
    ours = [
        take(
            length // batch_size,
            source,
            transform,
            batch_size=batch_size,
            repeats=3,
            rows=part,
        )
        for part in np.split(np.arange(batch_size), hosts)
    ]
    rows = batch_size // hosts
    for number in range(length // batch_size):
        seen = np.concatenate([part[number]["label"] for part in ours])
        wanted = np.concatenate([t[number * rows : (number + 1) * rows] for t in theirs])
        np.testing.assert_array_equal(np.sort(seen), np.sort(wanted))


def test_each_repeat_is_augmented_anew():
    source = ListSource(12)
    rows = joined(take(6, source, batch_size=4, repeats=3))
    for first in range(0, 24, 3):
        assert len(set(rows["label"][first : first + 3])) == 1
    images = {image.tobytes() for image in rows["image"]}
    assert len(images) == 24  # of two epochs


def test_once_is_what_it_was():
    """The bytes of runs that began before there were repeats."""
    assert_same(take(5, ListSource(10)), take(5, ListSource(10), repeats=1))
    first = int(epoch_order(10, 3, 0)[0])
    rng = np.random.Generator(np.random.Philox(key=3, counter=[0, 0, 1, first]))
    source = ListSource(10)
    expected = TRANSFORM(source[first]["image"], rng)
    np.testing.assert_array_equal(take(1, source, seed=3)[0]["image"][0], expected)


@pytest.mark.parametrize("start", [1, 2, 7])
def test_repeats_continue_anywhere_and_on_any_number_of_hosts_and_workers(start):
    source = ListSource(10)
    expected = take(10, source, repeats=3)
    assert_same(expected[start:], take(10 - start, source, repeats=3, start_batch=start))
    parts = [take(10, source, repeats=3, rows=rows) for rows in ((0, 1), (2, 3))]
    for number, batch in enumerate(expected):
        assert_same([batch], [part[number] for part in parts])
    assert_same(expected, take(10, source, repeats=3, workers=2))
    assert_same(expected, take(10, source, repeats=3, cache=True))


def test_skip_passes_over_all_repeats():
    source = ListSource(10, bad=[epoch_order(10, 0, 0)[1]])
    rows = joined(take(2, source, PLAIN, repeats=2, on_error="skip"))
    order = epoch_order(10, 0, 0)
    assert rows["label"].tolist() == [order[i] for i in (0, 0, 2, 2, 2, 2, 3, 3)]
    assert rows["skipped"].tolist() == [0, 0, 2, 1, 0, 0, 0, 0]


# Examples that cannot be decoded.


@pytest.mark.parametrize(("workers", "cache"), [(0, False), (0, True), (2, False)])
def test_stop_names_the_example(workers, cache):
    with pytest.raises(data.DecodeError, match=r"cannot decode picture 6: it is not a JPEG"):
        take(3, ListSource(10, bad=[6]), workers=workers, cache=cache)


@pytest.mark.parametrize(("workers", "cache"), [(0, False), (0, True), (2, False)])
def test_skip_fills_the_slot_with_the_next_in_order(workers, cache):
    bad = {6, *epoch_order(10, 0, 0)[3:5], epoch_order(10, 0, 0)[9]}
    source = ListSource(10, bad=bad)
    options = {"workers": workers, "cache": cache, "on_error": "skip"}
    rows = joined(take(10, source, PLAIN, **options))
    order = np.concatenate([epoch_order(10, 0, epoch) for epoch in range(5)])
    for position in range(40):
        skipped = next(s for s in range(10) if order[position + s] not in bad)
        assert rows["skipped"][position] == skipped
        assert rows["label"][position] == order[position + skipped]
    own_is_bad = np.isin(order[:40], list(bad))
    np.testing.assert_array_equal(rows["skipped"] > 0, own_is_bad)


def test_skip_is_the_same_on_several_hosts():
    source = ListSource(10, bad=[2, 3, 6])
    hosts = [take(10, source, on_error="skip", rows=rows) for rows in ((0, 1), (2, 3))]
    for number, batch in enumerate(take(10, source, on_error="skip")):
        assert_same([batch], [host[number] for host in hosts])


def test_skip_says_which_once(caplog):
    take(10, ListSource(10, bad=[6]), on_error="skip")
    assert caplog.text.count("skipping: cannot decode picture 6") == 1


def test_nothing_decodable_is_an_error_in_any_case():
    with pytest.raises(data.DecodeError, match="10 in a row cannot be decoded"):
        take(1, ListSource(10, bad=range(10)), on_error="skip")


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_outside_the_classes(label):
    source = ListSource(10, labels=[0] * 9 + [label])
    with pytest.raises(LabelError, match=rf"picture 9 has label {label}.* expected 0 to 9"):
        take(3, source, on_error="skip")


# Evaluation.


@pytest.mark.parametrize(
    ("length", "batch_size", "count", "workers"),
    [(10, 4, 2, 0), (8, 4, 1, 0), (3, 8, 4, 0), (10, 4, 2, 2)],
)
def test_evaluation_sees_every_example_once(length, batch_size, count, workers):
    source = ListSource(length)
    parts = []
    for rows in np.split(np.arange(batch_size), count):
        with data.eval_batches(
            source, PLAIN, batch_size=batch_size, rows=rows, workers=workers
        ) as batches:
            parts.append(list(batches))
    assert {len(part) for part in parts} == {-(-length // batch_size)}
    rows = joined([joined([part[k] for part in parts]) for k in range(len(parts[0]))])
    assert rows["mask"].dtype == np.float32
    counts = rows["mask"] > 0
    np.testing.assert_array_equal(counts, np.arange(len(counts)) < length)
    np.testing.assert_array_equal(rows["label"][counts], np.arange(length) % 10)
    for i in range(length):
        np.testing.assert_array_equal(rows["image"][i], decode(source[i]["image"]))
    assert not rows["image"][~counts].any()


def test_evaluation_with_an_undecodable_example():
    source = ListSource(6, bad=[2])
    with (
        data.eval_batches(source, PLAIN, batch_size=4) as batches,
        pytest.raises(data.DecodeError, match="picture 2"),
    ):
        list(batches)
    with data.eval_batches(source, PLAIN, batch_size=4, on_error="skip") as batches:
        rows = joined(list(batches))
    assert rows["mask"].tolist() == [1, 1, 0, 1, 1, 1, 0, 0]
    assert rows["skipped"].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


# Arguments, processes, speed.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0: expected 1 or more"),
        ({"workers": -1}, "workers is -1"),
        ({"on_error": "ignore"}, "on_error is 'ignore': expected 'stop' or 'skip'"),
        ({"seed": -1}, "seed is -1"),
        ({"start_batch": -1}, "start_batch is -1"),
        ({"repeats": 0}, "repeats is 0: expected 1 or more"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        take(1, ListSource(3), **options)


def test_an_empty_source():
    with pytest.raises(ValueError, match="no examples"):
        take(1, ListSource(0))


def test_a_closed_iterator_is_at_its_end():
    batches = data.train_batches(ListSource(5), PLAIN, batch_size=2, seed=0)
    next(batches)
    batches.close()
    batches.close()
    assert next(batches, None) is None


WORKERS = """
    import os, sys
    from vit_jax import data
    from tests.data.pictures import ListSource

    if __name__ == "__main__":
        transform = data.build_transform("resize", 64)
        batches = data.train_batches(ListSource(20), transform, batch_size=8, seed=0, workers=2)
        for _ in range(6):
            batch = next(batches)
        pids = [p for p in os.listdir("/proc") if p.isdigit() and is_child(p)]
        print(len(pids), *pids, flush=True)
        {ending}
"""
IS_CHILD = """
    def is_child(pid):
        try:
            status = open(f"/proc/{pid}/stat").read()
        except FileNotFoundError:
            return False
        return int(status.rpartition(")")[2].split()[1]) == os.getpid()
"""


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    "ending",
    [
        "batches.close()",
        "pass",
        "os.kill(os.getpid(), 9)",
        "raise ValueError",
        "list(data.eval_batches(ListSource(9), transform, batch_size=4, workers=2))",
    ],
)
def test_no_process_and_no_shared_memory_outlives_the_program(tmp_path, ending):
    """However it ends: closed, not closed, killed, by an exception, after a whole evaluation."""
    code = textwrap.dedent(IS_CHILD) + textwrap.dedent(WORKERS.format(ending=ending))
    script = tmp_path / "script.py"
    script.write_text("import os\n" + code)
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": "."},
    )
    count, *pids = done.stdout.split()
    assert int(count) >= 2, done.stderr
    if "kill" not in ending:
        assert "leaked" not in done.stderr
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, pids))


def test_the_cost_of_an_example(tmp_path):
    """The digits recipe takes 230,000: at most 100 us each."""
    source = data.open_source("digits", "train", str(tmp_path))
    transform = data.build_transform("random_shift(1)", 8, channels=1)
    with data.train_batches(source, transform, batch_size=128, seed=0, cache=True) as batches:
        for _ in range(24):  # two epochs, the first of which decodes
            next(batches)
        start = time.process_time()
        for _ in range(200):
            next(batches)
    assert (time.process_time() - start) / (200 * 128) < 100e-6


@needs_photographs
def test_photographs_through_workers(tmp_path):
    (tmp_path / "train/some").mkdir(parents=True)
    (tmp_path / "test/some").mkdir(parents=True)
    for path in photographs(12):
        (tmp_path / "train/some" / path.name).symlink_to(path.resolve())
    source = data.open_source(f"folder:{tmp_path}/train", "train")
    transform = data.build_transform("inception_crop|flip", 64)
    assert_same(take(6, source, transform), take(6, source, transform, workers=2))
