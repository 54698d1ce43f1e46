"""The table of models: its numbers, its weights, and what it looks like."""

import importlib.util
import io
import json

import pytest

from vit_jax import models
from vit_jax.convert.published import TIMM_TAGS, TRANSFORMERS, published
from vit_jax.convert.torch_libraries import import_library
from vit_jax.errors import UserError
from vit_jax.inspect.catalogue import as_text, details, model_table, show


@pytest.fixture(scope="module")
def rows():
    """All of them."""
    return model_table()


def test_every_name_has_a_row(rows):
    assert [row.name for row in rows] == models.list_models()
    row = next(row for row in rows if row.name == "vit_base_patch16_224")
    # Multiply-adds by hand: 12 * (12 * 197 * 768^2 + 2 * 197^2 * 768) + 196 * 768^2 + 768 * 1000.
    assert row.parameters == 86_567_656 and row.image_size == (224, 224)
    assert round(row.flops / 2e9, 2) == 17.56


def test_a_pattern_that_fits_nothing_names_the_nearest():
    with pytest.raises(UserError, match=r"no model fits .*'swin_s3_tiny_224'"):
        model_table("swim_tiny*")


def test_weights_lie_in_a_layout_that_is_read(rows):
    for row in rows:
        for id in row.weights:
            layout = "timm" if id.startswith("timm/") else "transformers"
            assert layout in row.layouts, (row.name, id)


def test_every_layout_of_a_name_is_one_that_can_hold_it(rows):
    layouts = {row.name: row.layouts for row in rows}
    assert layouts["vit_base_patch16_224"] == ("augreg", "mae", "timm", "transformers")
    assert layouts["vit_22b_patch14_224"] == ("timm",)  # nobody else has parallel blocks
    assert layouts["mae_vit_base_patch16"] == ("mae", "transformers")
    assert all(layouts.values())


def test_published_names_are_registered_and_have_no_double():
    assert set(TIMM_TAGS) | set(TRANSFORMERS) <= set(models.list_models())
    for name in models.list_models():
        assert len(set(published(name))) == len(published(name)), name
    assert published("vit_base_patch16_clip_quickgelu_224")[-2:] == (
        "timm/vit_base_patch16_clip_224.openai",
        "hf-hub:openai/clip-vit-base-patch16",
    )


def test_tags_are_those_of_timm():
    pytest.importorskip("torch")
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    timm = import_library("timm", "this test")
    for name in models.list_models():
        theirs = (timm.get_pretrained_cfg(x).hf_hub_id for x in timm.list_pretrained(f"{name}.*"))
        ours = [x for x in published(name) if x.startswith("timm/")]
        if timm.list_models(name):
            assert set(ours) <= set(filter(None, theirs)), name
        else:
            assert not ours, name


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_80_columns_on_a_terminal_and_whole_lines_in_a_file(rows):
    terminal, file = _Terminal(), io.StringIO()
    show(rows, False, terminal)
    show(rows, False, file)
    assert max(map(len, terminal.getvalue().splitlines())) <= 80
    assert len(terminal.getvalue().splitlines()) == len(file.getvalue().splitlines())
    assert all(id in file.getvalue() for row in rows for id in row.weights)


def test_json_has_a_line_for_each(rows):
    output = io.StringIO()
    show(rows, True, output)
    told = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [x["name"] for x in told] == models.list_models()
    assert told[0]["weights"] == list(rows[0].weights)


def test_one_model_is_told_in_full():
    (row,) = model_table("mae_vit_base_patch16")
    lines = details(row).splitlines()
    assert "  hf-hub:facebook/vit-mae-base" in lines and max(map(len, lines)) <= 80
    assert str(model_table("mae_vit_tiny*")) == as_text(model_table("mae_vit_tiny*"))
