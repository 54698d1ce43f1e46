"""Checkpoints without what is frozen: `lora.save_only_adapters`.

What is frozen comes from `init_from` and never changes, so a checkpoint of adapters and head, which
is small, is enough, as long as that source stays what it was: its checksums are in the checkpoint.
"""

from typing import Any

from vit_jax.errors import UserError
from vit_jax.training.checksum import checksums
from vit_jax.training.experiment import Experiment
from vit_jax.training.init_from import initial_state
from vit_jax.training.record import Record, flatten
from vit_jax.training.state import TrainState

NOTE = "frozen"  # of a checkpoint's record: checksums by name


def saved(config: Any, state: TrainState) -> TrainState:
    """Returns what of a state, or of a tree like it, is in checkpoints."""
    if not config.lora.save_only_adapters:
        return state
    return state.replace(extra={**state.extra, "frozen": None})


def notes(config: Any, state: TrainState) -> dict[str, Any]:
    """Returns what a checkpoint has to say about what it leaves out."""
    if not config.lora.save_only_adapters:
        return {}
    return {NOTE: checksums(flatten(state.extra["frozen"]))}


def completed(experiment: Experiment, state: TrainState, record: Record) -> TrainState:
    """Returns the state of a checkpoint with what was left out.

    Args:
      experiment: of the run.
      state: as it was saved.
      record: of the checkpoint.

    Raises:
      UserError: `init_from` cannot be read, or is not what it was.
    """
    config = experiment.config
    if not config.lora.save_only_adapters:
        return state
    why = f"the checkpoint holds adapters only, what they change is read from {config.init_from}"
    try:
        frozen = initial_state(experiment, None, lambda text: None).extra["frozen"]
    except UserError as error:
        raise UserError(f"{why}, as when the run began: {error}") from error
    expected = record.notes[NOTE]
    for name, checksum in checksums(flatten(frozen)).items():
        if expected.get(name) != checksum:
            raise UserError(
                f"{why}: its {name.replace('.', '/')} is not what it was when the run began; put "
                "back the file or the revision of then"
            )
    return state.replace(extra={**state.extra, "frozen": frozen})
