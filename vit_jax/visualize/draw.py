"""Pictures of a model as figures, and as files; what `vit-jax visualize` does."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from tqdm import tqdm

from vit_jax import naming, storage
from vit_jax.convert.folder import Model
from vit_jax.convert.pretrained import check_not_rounded
from vit_jax.data.preprocessing import preprocess
from vit_jax.errors import UserError
from vit_jax.inference.images import find_pictures
from vit_jax.models.vit import pair
from vit_jax.training import run_folder
from vit_jax.training.trained import open_model
from vit_jax.visualize.canvas import new_figure, save_figure
from vit_jax.visualize.kinds import KINDS, Choices, Picture, check_choices
from vit_jax.visualize.reconstruction import to_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = "all"
IN_ONE = 64  # pictures of one figure
PLAIN = Choices()


def visualize(
    source: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    what: Sequence[str] = (ALL,),
    *,
    layer: int | None = None,
    heads: Sequence[int] = (),
    foreground: float | None = None,
    norm_pix_loss: bool | None = None,
    report: Callable[[str], None] = print,
    **options: Any,
) -> list[Path]:
    """Opens a model and draws it; see `draw`.

    Args:
        source: a run, a converted model, weights or a hub id, see `vit_jax.open_model`.
        images: files, folders and patterns, see `inference.images.find_pictures`.
        output: see `draw`.
        what: see `draw`.
        layer: see `Choices`.
        heads: see `Choices`.
        foreground: see `Choices`.
        norm_pix_loss: see `Choices`; None takes what a run says, and False for other sources.
        report: see `draw`.
        **options: of `vit_jax.open_model`.

    Raises:
        UserError: see `draw`, and `vit_jax.open_model`.
    """
    files = [picture.path for picture in find_pictures(list(images))] if images else []
    model = open_model(source, report=report, **options)
    if norm_pix_loss is None:
        norm_pix_loss = run_folder.holds_run(source) and _learned_normalised(source)
    choices = Choices(layer, tuple(heads), foreground, norm_pix_loss)
    return draw(model, files, output, what, choices, report)


def _learned_normalised(run: str | os.PathLike[str]) -> bool:
    return bool(run_folder.read_config(run).objective.get("norm_pix_loss", False))


def draw(
    model: Model,
    files: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    what: Sequence[str] = (ALL,),
    choices: Choices = PLAIN,
    report: Callable[[str], None] = print,
) -> list[Path]:
    """Draws a model and writes the pictures as PNG.

    Args:
        model: with its parameters and preprocessing.
        files: pictures to look at; some kinds need none.
        output: a folder, made where it is missing. Files of the same names are replaced.
        what: names of `KINDS`; or "all", which leaves out, and reports, what the model does not
            have.
        choices: layer, heads and so on.
        report: is given the path of each file, and what was left out.

    Returns:
        The files.

    Raises:
        UserError: the model does not have what is asked for, there is no such layer or head, a
            file cannot be read or written, or matplotlib is not installed.
    """
    drawn = figures(model, files, what, choices, report)
    folder, written = _folder(output), []
    for stem, figure in drawn:
        written.append(save_figure(figure, folder / f"{stem}.png"))
        with tqdm.external_write_mode():
            report(os.fspath(written[-1]))
    return written


def figures(
    model: Model,
    files: Sequence[str | os.PathLike[str]] = (),
    what: Sequence[str] = (ALL,),
    choices: Choices = PLAIN,
    report: Callable[[str], None] = print,
) -> Iterator[tuple[str, "Figure"]]:
    """Draws a model, figure by figure.

        for name, figure in figures(vit_jax.open_model("runs/mine"), ["cat.jpg"], ["attention"]):
            display(figure)  # in a notebook; figure.savefig(f"{name}.png") elsewhere

    Args:
        model: see `draw`.
        files: see `draw`.
        what: see `draw`.
        choices: see `draw`.
        report: is told what was left out.

    Returns:
        Names, which are those of `draw`'s files without their ending, and figures; each is drawn
        when it is asked for.

    Raises:
        UserError: see `draw`.
    """
    new_figure(1, 1)  # where it cannot be had, nothing else is worth the wait
    check_not_rounded(model.params)
    kinds, left_out = _kinds(model, what, bool(files))
    check_choices(model.module, choices)
    if "pca" in kinds and len(files) > IN_ONE:
        raise UserError(f"{len(files)} pictures; pca shows at most {IN_ONE} in one figure")
    of_pictures = any(KINDS[name].of_pictures for name in kinds)
    pictures = read_pictures(files, model) if of_pictures else []
    for reason in left_out:
        report(f"left out: {reason}")
    return _drawn(model, pictures, kinds, choices)


def _drawn(
    model: Model, pictures: Sequence[Picture], kinds: Sequence[str], choices: Choices
) -> Iterator[tuple[str, "Figure"]]:
    """Names and figures of each kind."""
    model = dataclasses.replace(model, params=jax.device_put(model.params))
    for name in kinds:
        # What looks at no pictures would leave its bar standing at 0 %.
        hidden = None if KINDS[name].of_pictures else True
        with tqdm(pictures, name, disable=hidden, leave=False) as bar:
            yield from KINDS[name].draw(model, bar, choices)


def _kinds(model: Model, what: Sequence[str], has_files: bool) -> tuple[list[str], list[str]]:
    """The kinds to draw, in the order of `KINDS`, and why others of "all" are not among them."""
    naming.check_known("kind of picture", what, (*KINDS, ALL))
    found, left_out = [], []
    for name, kind in KINDS.items():
        if name not in what and ALL not in what:
            continue
        try:
            kind.check(model)
            if kind.of_pictures and not has_files:
                raise UserError(f"{name} shows what a model makes of pictures: give some")
        except UserError as error:
            if name in what:
                raise
            left_out.append(str(error))
            continue
        found.append(name)
    if not found:
        raise UserError(f"there is nothing to draw: {left_out[0]}")
    return found, left_out


def read_pictures(files: Sequence[str | os.PathLike[str]], model: Model) -> list[Picture]:
    """Reads and prepares files as the model's evaluation does.

    Raises:
        UserError: a file is missing or cannot be decoded.
    """
    prep = model.preprocessing.for_channels(model.module.in_chans)
    pictures = []
    for name, file in zip(_names(files), tqdm(files, "pictures", disable=None, leave=False)):
        try:
            image = preprocess(file, prep, pair(model.module.img_size))
        except OSError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot read {file}: {error.strerror or error}") from error
        pictures.append(Picture(name, image, to_pixels(image, prep.mean, prep.std)))
    return pictures


def _names(files: Sequence[str | os.PathLike[str]]) -> list[str]:
    """A name for each file: its own without ending, numbered where they are not all different."""
    stems = [Path(file).stem for file in files]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{i}_{stem}" for i, stem in enumerate(stems)]


def _folder(output: str | os.PathLike[str]) -> Path:
    if storage.is_remote(output):
        raise UserError(f"{output}: pictures are written to a file system; copy them from there")
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error}") from error
    return folder
