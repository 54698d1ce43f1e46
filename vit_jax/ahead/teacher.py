"""A teacher whose weights are not read: what it is says what it costs."""

import jax
import numpy as np

from vit_jax import models
from vit_jax.convert import folder
from vit_jax.errors import UserError
from vit_jax.training import run_folder
from vit_jax.training.experiment import build_module


def described_model(
    source: str, checkpoint: str | int, name: str | None, num_classes: int
) -> folder.Model:
    """Returns the model that `source` holds, with zeros that take no memory for its parameters.

    Args:
      source: the folder of a run or of a converted model; anything else where `name` says what it
        is: it need not be there.
      checkpoint: which of a run; all are alike here.
      name: a name of `list_models()`, where the source does not say what it is.
      num_classes: of a model by name: those of the student.

    Raises:
      UserError: nothing says what it is.
    """
    del checkpoint
    if run_folder.holds_run(source):
        config = run_folder.read_config(source)
        module, preprocessing = build_module(config.model), models.preprocessing(config.model.name)
    elif folder.is_converted(source):
        module, preprocessing, _ = folder.read_description(source)
    elif name is not None:
        module = models.create_model(name, num_classes=num_classes)
        preprocessing = models.preprocessing(name)
    else:
        raise UserError(
            f"the teacher {source!r} is not here: give the folder of a run or of a converted "
            "model, or say what it is with --config.objective.teacher_model=NAME"
        )
    size = np.broadcast_to(module.img_size, 2)
    image = jax.ShapeDtypeStruct((1, *size, module.in_chans), "float32")
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    zeros = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)
    return folder.Model(module, zeros, preprocessing)
