import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.training.processes import assert_same_bits
from vit_jax.training import checkpoint
from vit_jax.training.checkpoint import CheckpointError, Checkpoints, restore, saved_steps
from vit_jax.training.record import DamagedCheckpointError, flatten
from vit_jax.training.sharding import make_mesh
from vit_jax.training.state import TrainState

NOTES = {"skipped": 3}


def mesh(*sizes):
    return make_mesh({**dict(zip(("data", "fsdp", "tensor"), sizes)), "sequence": 1})


SPLIT = P("fsdp", "tensor")


def some_state(step=0, sizes=(2, 2, 2), spec=SPLIT):
    place, whole = (NamedSharding(mesh(*sizes), s) for s in (spec, P()))
    kernel = jax.random.normal(jax.random.key(step), (64, 128))
    params = {"block": {"kernel": jax.device_put(kernel, place)}}
    return TrainState(
        step=jax.device_put(jnp.int32(step), whole),
        params=params,
        opt_state=(params, {"count": jax.device_put(jnp.int32(step), whole)}),
        ema=None,
        extra={"centre": jax.device_put(jnp.full(8, step, jnp.bfloat16), whole)},
    )


def targets(**options):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), some_state(**options)
    )


def save(directory, steps, **options):
    with Checkpoints(directory, keep_last=100, **options) as checkpoints:
        for step in steps:
            checkpoints.save(some_state(step), step, None, NOTES)


def bits(tree):
    return {name: np.asarray(x) for name, x in flatten(tree).items()}


@pytest.mark.parametrize(
    "sizes, spec", [((8, 1, 1), P(("data", "fsdp"))), ((1, 4, 2), P("tensor"))]
)
def test_restore_onto_another_mesh(tmp_path, sizes, spec):
    save(tmp_path, [7])
    wanted = targets(sizes=sizes, spec=spec)
    state, record = restore(tmp_path, 7, wanted)
    assert_same_bits(bits(state), bits(some_state(7)))
    for leaf, target in zip(jax.tree.leaves(state), jax.tree.leaves(wanted)):
        assert leaf.sharding == target.sharding
    assert (record.step, record.metrics, record.notes) == (7, None, NOTES)


def test_restore_of_a_part(tmp_path):
    save(tmp_path, [7])
    state, _ = restore(tmp_path, 7, targets().replace(opt_state=None))
    assert state.opt_state is None
    np.testing.assert_array_equal(
        state.params["block"]["kernel"], bits(some_state(7))["params.block.kernel"]
    )


def test_a_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("here", [1])
    assert saved_steps(tmp_path / "here") == [1]


def test_last_and_best_are_kept(tmp_path):
    accuracy = {1: 0.5, 2: 0.9, 3: None, 4: 0.7, 5: 0.8, 6: None, 7: 0.1, 8: 0.2}
    for first in (1, 5):  # the second half by a new process, which has to know the first
        with Checkpoints(tmp_path, keep_last=2, keep_best=2) as checkpoints:
            for step in range(first, first + 4):
                metrics = None if accuracy[step] is None else {"top1": accuracy[step]}
                checkpoints.save(some_state(step), step, metrics, NOTES)
    assert saved_steps(tmp_path) == [2, 5, 7, 8]
    assert checkpoint.rank(tmp_path, "top1", "max", 2).best(saved_steps(tmp_path)) == [2, 5]


def test_what_does_not_fit_is_named(tmp_path):
    save(tmp_path, [7])
    place = NamedSharding(mesh(8, 1, 1), P())

    def wanting(**params):
        leaves = {name: jax.ShapeDtypeStruct(*x, sharding=place) for name, x in params.items()}
        return targets().replace(params={"block": leaves})

    with pytest.raises(ValueError, match=r"params.block.kernel with shape \[64, 128\].*\[64, 99\]"):
        restore(tmp_path, 7, wanting(kernel=((64, 99), jnp.float32)))
    with pytest.raises(ValueError, match=r"params.block.kernel with dtype float32.*bfloat16"):
        restore(tmp_path, 7, wanting(kernel=((64, 128), jnp.bfloat16)))
    with pytest.raises(ValueError, match=r"does not hold params.block.bias"):
        restore(tmp_path, 7, wanting(kernel=((64, 128), jnp.float32), bias=((9,), jnp.float32)))
    with pytest.raises(ValueError, match=r"holds, which this run does not have, opt_state.1.count"):
        restore(tmp_path, 7, targets().replace(opt_state=(targets().params,)))


def damages(path):
    """Ways to damage a file; each returns after it has done so."""
    content = path.read_bytes()

    def flip(position):
        changed = bytearray(content)
        changed[position] ^= 0x10
        path.write_bytes(changed)

    yield "deleted", path.unlink
    yield "empty", lambda: path.write_bytes(b"")
    yield "cut", lambda: path.write_bytes(content[: len(content) // 2])
    for share in (0.05, 0.3, 0.5, 0.7, 0.95):
        yield f"flipped at {share}", lambda share=share: flip(int(share * len(content)))


@pytest.mark.slow
def test_no_damage_of_any_file_goes_unnoticed(tmp_path):
    """Either the right bits are read, or the previous checkpoint is taken and it is said."""
    original, work = tmp_path / "original", tmp_path / "work"
    save(original, [1, 2])
    expected = {step: bits(some_state(step)) for step in (1, 2)}
    fell_back = 0
    for file in sorted(path for path in (original / "2").rglob("*") if path.is_file()):
        for name, _ in damages(file):
            shutil.rmtree(tmp_path / "damaged_checkpoints", ignore_errors=True)
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(original, work)
            dict(damages(work / file.relative_to(original)))[name]()
            warnings = []
            with Checkpoints(work, keep_last=100) as checkpoints:
                state, record = checkpoints.restore_latest(targets(), warnings.append)
                assert_same_bits(bits(state), expected[record.step])
                if record.step == 2:
                    assert not warnings
                    continue
                fell_back += 1
                assert "the checkpoint of step 2 is damaged" in warnings[0]
                assert "taking the checkpoint of step 1 instead" in warnings[1]
                assert saved_steps(tmp_path / "damaged_checkpoints") == [2]
                checkpoints.save(some_state(2), 2, None, NOTES)  # its place is free again
            assert saved_steps(work) == [1, 2]
    assert fell_back > 20


def test_all_damaged_is_an_error_and_nothing_is_moved(tmp_path):
    save(tmp_path, [1, 2])
    for step in (1, 2):
        (tmp_path / str(step) / "record" / "metadata").write_text("{}")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="can be read, tried 2, 1"),
    ):
        checkpoints.restore_latest(targets(), lambda _: None)
    assert saved_steps(tmp_path) == [1, 2]


def test_a_changed_record_is_damage(tmp_path):
    save(tmp_path, [1])
    path = tmp_path / "1" / "record" / "metadata"
    sealed = json.loads(path.read_text())
    sealed["content"]["step"] = 3
    path.write_text(json.dumps(sealed))
    with pytest.raises(DamagedCheckpointError, match="checksum of its record"):
        checkpoint.record_of(tmp_path, 1)


def test_a_record_that_cannot_be_made_is_an_error(tmp_path, monkeypatch):
    """In the background: what the checksums of an accelerator that fails would raise."""

    def fail(record):
        raise RuntimeError("the accelerator is gone")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(some_state(1), 1, None, NOTES)
        checkpoints.wait()
        monkeypatch.setattr(checkpoint, "seal", fail)
        checkpoints.save(some_state(2), 2, None, NOTES)
        with pytest.raises(CheckpointError, match=r"the accelerator is gone.*by step: 1\."):
            checkpoints.wait()
    assert saved_steps(tmp_path) == [1]


def test_what_is_noted_is_as_it_was(tmp_path):
    metrics, notes = {"top1": 0.5}, {"skipped": 3}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(some_state(1), 1, metrics, notes)
        metrics["top1"] = notes["skipped"] = 4
        with pytest.raises(TypeError):
            checkpoints.save(some_state(2), 2, None, {"not JSON": object()})
    record = checkpoint.record_of(tmp_path, 1)
    assert (record.metrics, record.notes) == ({"top1": 0.5}, {"skipped": 3})


def test_an_unfinished_save_is_removed_and_ignored(tmp_path):
    save(tmp_path, [1])
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    assert saved_steps(tmp_path) == [1]
    with Checkpoints(tmp_path) as checkpoints:
        _, record = checkpoints.restore_latest(targets(), pytest.fail)
        checkpoints.save(some_state(2), 2, None, NOTES)
    assert record.step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
