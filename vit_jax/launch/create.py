"""Brings a TPU into being and removes it, whatever is there already."""

import time

from vit_jax.errors import UserError
from vit_jax.launch.gcloud import GcloudError, Kind
from vit_jax.launch.state import (
    PATIENCE,
    Seen,
    State,
    describe,
    is_spot,
    look,
    only_node_of,
    shape_text,
)
from vit_jax.launch.tpu_vm import Hardware, Tpu

LONGEST_PAUSE = 20  # polls, between two tries where there is no capacity


def ensure(tpu: Tpu, hardware: Hardware, patient: bool = False) -> Seen:
    """Waits until `tpu` is ready; creates it where it is absent, anew where it was preempted.

    Args:
      tpu: which.
      hardware: what to create.
      patient: whether to try again where there is no capacity, or it is lost before it is ready.

    Raises:
      UserError: it cannot be had, or what is there is something else.
    """
    said, created, pause, tries = "", False, 1, 1
    while True:
        seen = look(tpu, State.READY if created else State.ABSENT, PATIENCE if patient else tries)
        tries = PATIENCE  # who waits for it already should not wait in vain
        if seen.word and seen.word != said:
            print(f"{tpu.name}: {seen.word}", flush=True)
            said = seen.word
        if seen.state is State.READY:
            _check(tpu, hardware, seen)
            return seen
        if seen.state is State.OTHER:
            start = "start it (gcloud compute tpus tpu-vm start), " if seen.queue is None else ""
            raise UserError(
                f"{tpu.name} is {seen.word}, expected nothing or one that runs; {start}use another "
                "name, or delete it first"
            )
        if seen.state is State.GONE:
            if created and not patient:
                raise UserError(f"{tpu.name} was lost before it was ready: {seen.word}")
            _delete(tpu, seen)
        elif seen.state is State.ABSENT and not created:
            created = _create(tpu, hardware, patient)
            if not created:
                pause = min(2 * pause, LONGEST_PAUSE)
                print(f"no capacity; trying again in {pause * tpu.poll:g} s", flush=True)
                time.sleep(pause * tpu.poll)
        else:
            created = created and seen.state is not State.ABSENT  # not to be seen yet, or no more
            time.sleep(tpu.poll)


def _create(tpu: Tpu, hardware: Hardware, patient: bool) -> bool:
    """Asks for it; returns False where there is no capacity and one can wait for it."""
    try:
        tpu.gcloud.run(hardware.create(tpu), echo=True)
    except GcloudError as error:
        if error.kind is Kind.EXISTS:  # since we looked
            return True
        if error.kind is Kind.NO_CAPACITY and patient:
            return False
        raise
    return True


def _check(tpu: Tpu, hardware: Hardware, seen: Seen) -> None:
    """Looks whether what is there is what was asked for, as far as both say it."""
    for wanted, there in (
        (hardware.accelerator_type, seen.accelerator_type),
        (shape_text(hardware.type, hardware.topology), seen.shape),
        (hardware.version, seen.version),
    ):
        if wanted and there and wanted != there:
            raise UserError(
                f"{tpu.name} exists and is a {there}, not a {wanted}; use another name, or "
                "vit-jax tpu delete it first"
            )
    if tpu.gcloud.dry_run or is_spot(tpu, seen) == hardware.spot:
        return
    there, option = ("on demand", "leave out --spot") if hardware.spot else ("spot", "say --spot")
    raise UserError(
        f"{tpu.name} exists and is {there}, not {'spot' if hardware.spot else 'on demand'}; "
        f"{option} to take it, use another name, or vit-jax tpu delete it first"
    )


def create(tpu: Tpu, hardware: Hardware) -> int:
    """`vit-jax tpu create`: `ensure`, and says what there is.

    Returns:
      0.
    """
    seen = ensure(tpu, hardware)
    if not tpu.gcloud.dry_run:
        print(f"{tpu.name}: {describe(seen)}")
    return 0


def remove(tpu: Tpu, seen: Seen) -> None:
    """Deletes what was seen, and waits until it is gone."""
    while seen.state is not State.ABSENT:
        if seen.state is State.LEAVING:
            time.sleep(tpu.poll)
        else:
            _delete(tpu, seen)
        seen = look(tpu, assumed=State.ABSENT)


def _delete(tpu: Tpu, seen: Seen) -> None:
    """One command; a node of a queued resource goes with it."""
    try:
        if seen.queue is None:
            tpu.gcloud.run(tpu.command("tpu-vm", "delete"))
        else:
            request = tpu.named(seen.queue)
            only_node_of(tpu, seen.queue)
            tpu.gcloud.run(request.command("queued-resources", "delete", "--force"))
    except GcloudError as error:
        if error.kind is not Kind.ABSENT:  # somebody else was quicker
            raise
