"""Every command and every fault of what it is given: one line, what to do, exit code 2.

A new command is a row of COMMANDS; a new kind of broken thing is a function under FAULTS.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.data.pictures import encode, natural
from tests.inference import tiny
from tests.training.processes import TINY
from vit_jax.convert import folder
from vit_jax.deploy.export import export_program


class Command(NamedTuple):
    """The arguments of a command, with {MODEL}, {RUN}, {CONFIG}, {IMAGE} and {OUT} where it takes
    a model, a run, a recipe, a picture and a place to write to.

    Attributes:
        arguments: see above.
        faults: those that are tried; None for all.
    """

    arguments: str
    faults: tuple[str, ...] | None = None

    def __str__(self):
        return "-".join(x for x in self.arguments.split() if "{" not in x and "=" not in x)


# For commands that open a model by the same call as others, and take longer to come to it; and what
# can be seen of a recipe that the workers of a TPU read.
SOME = ("missing", "damaged_pth", "converted_with_damaged_parameters", "program_as_model")
UNREAD = ("missing", "empty_folder", "folder_of_something_else")
COMMANDS = [
    Command("predict {MODEL} {IMAGE}"),
    Command("features {MODEL} {IMAGE} --output {OUT}.npz"),
    Command("visualize {MODEL} {IMAGE} --what attention --output {OUT}"),
    Command("convert {MODEL} --output {OUT}"),
    Command("validate {MODEL} --photo {IMAGE}"),
    Command("export {MODEL} --format timm --output {OUT}"),
    Command("export {MODEL} --format stablehlo --output {OUT}", SOME),
    Command("export {MODEL} --format onnx --output {OUT}", SOME),
    Command("train --config {CONFIG} --workdir {OUT}"),
    Command("train --config {CONFIG} --workdir {OUT} --config.init_from={MODEL}", SOME),
    Command("eval --workdir {RUN}"),
    Command("probe {MODEL} --data digits", SOME),
    Command("confusion {MODEL} --data digits", SOME),
    Command("calibration {MODEL} --data digits", SOME),
    Command("benchmark {MODEL}", SOME),
    Command("serve {MODEL} --port 0", SOME),
    Command("knn --config {CONFIG}"),
    Command("knn --config {CONFIG} --config.init_from={MODEL}", SOME),
    Command("compile --config {CONFIG} --platform cpu"),
    Command("inspect {CONFIG}"),
    Command("tpu train name --config {CONFIG} --workdir gs://bucket/run --dry-run", UNREAD),
]

Fault = Callable[[Path], Path]
MODEL_FAULTS: dict[str, Fault] = {}
RUN_FAULTS: dict[str, Fault] = {}
IMAGE_FAULTS: dict[str, Fault] = {}
CONFIG_FAULTS: dict[str, Fault] = {}


def fault(*tables: dict[str, Fault]) -> Callable[[Fault], Fault]:
    """Puts a function, which makes something broken in a new folder, into tables."""

    def put(function: Fault) -> Fault:
        for table in tables:
            table[function.__name__] = function
        return function

    return put


@fault(MODEL_FAULTS, RUN_FAULTS, IMAGE_FAULTS, CONFIG_FAULTS)
def missing(top):
    return top / "nowhere" / "file.png"


@fault(MODEL_FAULTS, RUN_FAULTS, IMAGE_FAULTS, CONFIG_FAULTS)
def empty_folder(top):
    (top / "empty").mkdir()
    return top / "empty"


@fault(MODEL_FAULTS, RUN_FAULTS, IMAGE_FAULTS, CONFIG_FAULTS)
def folder_of_something_else(top):
    (top / "other").mkdir()
    (top / "other" / "notes.txt").write_text("mine")
    return top / "other"


@fault(MODEL_FAULTS, RUN_FAULTS, IMAGE_FAULTS)
def text_file(top):
    (top / "notes.txt").write_text("mine")
    return top / "notes.txt"


@fault(MODEL_FAULTS, RUN_FAULTS)
def picture_as_model(top):
    (top / "cat.png").write_bytes(encode(natural(9, 9), "PNG"))
    return top / "cat.png"


@fault(MODEL_FAULTS)
def damaged_safetensors(top):
    (top / "model.safetensors").write_bytes(b"\x10" + bytes(7) + b"no header")
    return top / "model.safetensors"


@fault(MODEL_FAULTS)
def damaged_pth(top):
    (top / "model.pth").write_bytes(b"PK\x03\x04 and no more")
    return top / "model.pth"


@fault(MODEL_FAULTS)
def damaged_npz(top):
    (top / "model.npz").write_bytes(b"PK\x03\x04 and no more")
    return top / "model.npz"


@fault(MODEL_FAULTS)
def weights_of_something_else(top):
    np.savez(top / "linear.npz", kernel=np.ones(3))
    return top / "linear.npz"


@fault(MODEL_FAULTS, RUN_FAULTS)
def run_without_checkpoints(top):
    (top / "run").mkdir()
    (top / "run" / "config.json").write_text("{}")
    return top / "run"


@fault(RUN_FAULTS)
def converted_as_run(top):
    folder.save(top / "converted", tiny.vit())
    return top / "converted"


@fault(MODEL_FAULTS)
def converted_without_parameters(top):
    folder.save(top / "converted", tiny.vit())
    shutil.rmtree(top / "converted" / "params")
    return top / "converted"


@fault(MODEL_FAULTS)
def converted_with_damaged_parameters(top):
    folder.save(top / "converted", tiny.vit())
    for path in (top / "converted" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    return top / "converted"


@fault(MODEL_FAULTS)
def converted_with_damaged_description(top):
    folder.save(top / "converted", tiny.vit())
    (top / "converted" / "model.json").write_text("{")
    return top / "converted"


@fault(MODEL_FAULTS, RUN_FAULTS)
def program_as_model(top):
    export_program(tiny.vit(), top / "program", platforms=["cpu"], report=lambda text: None)
    return top / "program"


@fault(MODEL_FAULTS)
def hub_id_without_a_hub(top):
    return "hf-hub:nobody/nothing"


@fault(IMAGE_FAULTS)
def empty_file(top):
    (top / "cat.png").write_bytes(b"")
    return top / "cat.png"


@fault(IMAGE_FAULTS)
def no_picture(top):
    (top / "cat.jpg").write_text("not a picture")
    return top / "cat.jpg"


@fault(IMAGE_FAULTS)
def truncated_picture(top):
    whole = encode(natural(40, 40), "JPEG")
    (top / "cat.jpg").write_bytes(whole[: len(whole) // 2])
    return top / "cat.jpg"


@fault(IMAGE_FAULTS)
def link_to_nothing(top):
    (top / "cat.png").symlink_to(top / "gone.png")
    return top / "cat.png"


@fault(CONFIG_FAULTS)
def syntax_error(top):
    (top / "recipe.py").write_text("def get_config(:\n")
    return top / "recipe.py"


@fault(CONFIG_FAULTS)
def no_recipe(top):
    (top / "recipe.py").write_text("x = 1\n")
    return top / "recipe.py"


@fault(CONFIG_FAULTS)
def recipe_that_fails(top):
    (top / "recipe.py").write_text("import nothing_of_that_name\n")
    return top / "recipe.py"


@fault(CONFIG_FAULTS)
def recipe_of_another_kind(top):
    (top / "recipe.py").write_text("def get_config():\n    return {'a': 1}\n")
    return top / "recipe.py"


@fault(CONFIG_FAULTS)
def binary_file(top):
    (top / "recipe.py").write_bytes(bytes(range(256)))
    return top / "recipe.py"


FAULTS = {
    "MODEL": MODEL_FAULTS,
    "RUN": RUN_FAULTS,
    "IMAGE": IMAGE_FAULTS,
    "CONFIG": CONFIG_FAULTS,
}
CASES = [
    pytest.param(command, place, name, id=f"{command}-{place}-{name}")
    for command in COMMANDS
    for place, faults in FAULTS.items()
    if f"{{{place}}}" in command.arguments
    for name in faults
    if command.faults is None or name in command.faults
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """What each place holds where nothing is wrong."""
    top = tmp_path_factory.mktemp("good")
    folder.save(top / "model", tiny.vit(class_names=tiny.NAMES))
    (top / "cat.png").write_bytes(encode(natural(20, 30), "PNG"))
    return {"MODEL": top / "model", "IMAGE": top / "cat.png", "CONFIG": TINY}


@pytest.mark.parametrize("command, place, name", CASES)
def test_one_line_and_exit_code_2(call, good, tmp_path, monkeypatch, command, place, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    broken = FAULTS[place][name](tmp_path)
    places = {**good, place: broken, "OUT": tmp_path / "out"}
    arguments = [argument.format(**places) for argument in command.arguments.split()]
    code, output, errors = call(*arguments)
    lines = [x for x in errors.splitlines() if not x.startswith("vit-jax: warning: ")]
    assert code == 2, errors
    assert len(lines) == 1 and lines[0].startswith("vit-jax: error: "), errors
    if command.arguments.startswith("train"):  # which has printed what it is about to train
        assert not list(tmp_path.glob("out/checkpoints/[0-9]*"))
        return
    assert output == ""
    assert (broken.name if isinstance(broken, Path) else broken) in lines[0], "it is named"
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.npz").exists()
