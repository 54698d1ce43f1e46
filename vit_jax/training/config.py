"""The configuration of a run: every option with its default, recipes, and JSON in and out.

A recipe is a Python file with a function `get_config()` that starts from `base_config()` and sets
what differs. The result is a locked `ml_collections.ConfigDict`: a mistyped key is an error. Three
sections stay open, because what they may hold belongs to what is trained: `model` (any field of the
named module), `objective` (any option of the named objective) and `sharding_rules` (any logical
axis of a parameter); these names are checked when the model and the objective are built. What the
values may be is in `vit_jax.training.allowed`.
"""

import importlib.util
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.errors import MissingFileError, UserError
from vit_jax.training import overrides as overrides_lib
from vit_jax.training.lora import LORA_DEFAULTS
from vit_jax.training.optim import COMMON_DEFAULTS, OPTIMIZER_DEFAULTS
from vit_jax.training.schedules import SCHEDULE_DEFAULTS
from vit_jax.training.sharding import RULE_DEFAULTS

OPEN_SECTIONS = ("model", "objective", "sharding_rules")


def base_config() -> ConfigDict:
    """Returns every option with its default.

    Durations come in pairs `x_steps` / `x_epochs`, of which at most one may be given; an epoch is
    one pass over the training split. None means "not given".

    Returns:
      A locked ConfigDict whose `OPEN_SECTIONS` accept new keys.
    """
    config = ConfigDict()
    config.seed = 0  # of initialisation, dropout, example order and augmentation
    config.total_steps = None  # length of the run; exactly one of steps and epochs
    config.total_epochs = None
    config.model = _model()
    config.init_from = None  # what vit-jax convert wrote, a weights file, or hf-hub:owner/name
    config.init_changes = _init_changes()
    config.objective = _objective()
    config.data = _data()
    config.optim = _optim()
    config.lora = ConfigDict(LORA_DEFAULTS)  # low-rank adapters; each option is explained there
    config.schedule = ConfigDict(SCHEDULE_DEFAULTS)  # each option is explained there
    config.ema_decay = 0.0  # of the parameters' running average, which is then what is evaluated
    config.accumulate_steps = 1  # micro-batches whose gradients are averaged before one update
    # Devices along each axis, one of them -1 for the rest; see vit_jax/training/sharding.py.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "sequence": 1, "tensor": 1})
    # The TPU that the recipe is meant for, such as "v5e:4x4": what `vit-jax compile` compiles for
    # where it is told of none. A run takes the devices that there are.
    config.tpu_topology = None
    # A parameter's dimension that the mesh axes do not divide is left whole (the parameter table
    # printed at the start shows it).
    config.sharding_rules = ConfigDict(RULE_DEFAULTS)  # mesh axes of each logical axis
    config.checkpoint = _checkpoint()
    config.log_every_steps = 50  # metrics.jsonl, TensorBoard and the progress line
    config.profile = None  # (first step, last step): a trace of them, beside TensorBoard's files
    config.eval_every_steps = None  # both None: only at the end
    config.eval_every_epochs = None
    # Compiled programs are kept for the next start: a folder, or "off"; None: .jax_cache beside the
    # workdir, or where JAX_COMPILATION_CACHE_DIR says.
    config.compilation_cache = None
    config.distributed = _distributed()
    return open_and_lock(config)


def _model() -> ConfigDict:
    return ConfigDict(
        {
            "name": "vit_tiny_patch16_224",  # see vit_jax.list_models()
            "num_classes": None,  # None: as many as the data has
            "img_size": None,  # None: the model's own; a number or (height, width)
        }
    )


def _init_changes() -> ConfigDict:
    """What may differ between `init_from` and `model`; anything else that does is an error.

    The first three are shell patterns of parameter paths, such as "head/*".
    """
    return ConfigDict(
        {
            "resampled": (),  # position tables, patch embedding: for another resolution or patch
            "drawn": (),  # anew, such as the head for other classes
            "left_out": (),  # what the model has no place for
            "hyper_parameters": (),  # of another network with the same parameters
        }
    )


def _objective() -> ConfigDict:
    return ConfigDict(
        {
            "name": "classification",
            "loss": "softmax",  # or "sigmoid"
            "label_smoothing": 0.0,
            # More options are the objective's own, see vit_jax/objectives.
        }
    )


def _data() -> ConfigDict:
    return ConfigDict(
        {
            "source": "digits",  # or "tfds:NAME", "folder:PATH", "idx:PATH", see data/sources.py
            "data_dir": None,  # where prepared TFDS data sets are; None: the TFDS default
            "train_split": "train",
            "eval_split": "test",  # of a folder, "eval": its val or test, whichever it has
            "train_transform": "resize",  # see vit_jax.data.build_transform
            "eval_transform": None,  # None: the model's own, see vit_jax.data.eval_transform
            "batch_size": 128,  # images an update, over all devices and micro-batches
            "eval_batch_size": None,  # None: batch_size
            "workers": 0,  # processes that decode, on each host; 0: in the training process
            "on_error": "stop",  # or "skip": what to do with a file that cannot be decoded
            "cache": False,  # keep training examples in memory once read, in each worker
            "repeats": 1,  # times that an epoch shows an example, see data/pipeline.py
            "mean": None,  # per channel, on a scale of 0 to 1; None: the model's own
            "std": None,
            "interpolation": None,  # of resizing; None: the model's own
        }
    )


def _optim() -> ConfigDict:
    """One section for each optimizer; only that of the one named is read."""
    return ConfigDict(
        {
            "name": "adamw",  # one of the sections below
            **COMMON_DEFAULTS,  # each option is explained there
            **OPTIMIZER_DEFAULTS,
        }
    )


def _checkpoint() -> ConfigDict:
    return ConfigDict(
        {
            "every_steps": None,  # both None: only at the end, and when the machine is taken away
            "every_epochs": None,
            "keep_last": 3,  # the last N are kept; with 1 a damaged file leaves nothing to go to
            "keep_best": 1,  # and the N with the best metric of an evaluation
            "best_metric": "top1",
            "best_mode": "max",  # or "min"
        }
    )


def _distributed() -> ConfigDict:
    """Of the processes of one run on several hosts (or several on one)."""
    return ConfigDict(
        {
            "auto": False,  # True: let JAX find the others (TPU pods, Slurm, Open MPI, K8s)
            "coordinator": None,  # "host:port" of process 0
            "num_processes": None,
            "process_id": None,
            "timeout_seconds": 300,  # to wait at the start until all processes are there
        }
    )


def open_and_lock(config: ConfigDict) -> ConfigDict:
    """Locks `config` but for the sections whose fields belong to the thing they name."""
    config.lock()
    for section in OPEN_SECTIONS:
        if isinstance(config[section], ConfigDict):  # else `resolve.check` says what is wrong
            config[section].unlock()
    return config


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> ConfigDict:
    """Reads a recipe and applies overrides from the command line.

    Args:
      path: a Python file with a function `get_config()`.
      overrides: strings such as `optim.lr=1e-3`, see `vit_jax.training.overrides`.

    Raises:
      MissingFileError, UserError: there is no such recipe, or it is not one.
      UserError: an override names an unknown key (the message has the nearest) or gives a value
        of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no recipe at {path}: --config takes the path of a .py file")
    spec = importlib.util.spec_from_file_location(f"vit_jax_recipe_{path.stem}", path)
    if spec is None:
        raise UserError(f"{path} is not a recipe: a recipe is a Python file, its name ends in .py")
    recipe = importlib.util.module_from_spec(spec)
    try:
        compile(path.read_bytes(), path, "exec")
    except (SyntaxError, ValueError) as error:  # ValueError: it holds zero bytes
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UserError(f"{path}{where} is not Python, as a recipe is: {error.args[0]}") from error
    try:
        spec.loader.exec_module(recipe)
    except ImportError as error:
        raise UserError(f"the recipe {path} needs what is not installed: {error}") from error
    if not hasattr(recipe, "get_config"):
        raise UserError(f"{path} is not a recipe: it has no function get_config()")
    config = _run_recipe(recipe.get_config, path)
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() of {path} returned {type(config)}, expected a ConfigDict")
    for override in overrides:
        overrides_lib.apply(config, override, OPEN_SECTIONS)
    return config


def _run_recipe(get_config: Callable[[], ConfigDict], path: Path) -> ConfigDict:
    """Calls `get_config`; a key that a locked section refuses becomes a short message."""
    try:
        return get_config()
    except (AttributeError, KeyError) as error:
        refused = re.match(r"""['"]*Key \\?"(\w+)\\?" does not exist""", str(error))
        if not refused:
            raise
        message = overrides_lib.unknown_key(refused[1], overrides_lib.flat_keys(base_config()))
        raise UserError(f"{path}: {message}") from error


def to_json(config: ConfigDict) -> str:
    """Returns the configuration as indented JSON.

    Raises:
      UserError: a value is not a number, string, bool, None or a sequence or dict of them.
    """
    try:
        return json.dumps(config.to_dict(), indent=2) + "\n"
    except TypeError as error:
        raise UserError(
            f"the configuration cannot be saved: {error}; use numbers, strings, lists and None"
        ) from error


def from_json(text: str) -> ConfigDict:
    """Returns the locked configuration that `to_json` wrote, with sequences as tuples.

    Raises:
      UserError: it is not JSON, or not of a configuration.
    """
    try:
        content = json.loads(text)
        sections = content if isinstance(content, dict) else {}
        for name in OPEN_SECTIONS:
            if not isinstance(sections.get(name), dict):
                raise UserError(f"it has no section {name!r}")
        return open_and_lock(ConfigDict(_tuples(content)))
    except ValueError as error:  # also of json, and of ConfigDict where a key has a dot
        raise UserError(f"not the JSON of a configuration: {error}") from error


def _tuples(value: object) -> object:
    """JSON has only lists; the configuration, whose values must be hashable, has only tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value
