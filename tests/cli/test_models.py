"""`vit-jax models` and `vit-jax inspect`: output, and errors of one line."""

import json

import pytest

TINY = ["--image-size", 32, "--batch-size", 4, "--config.model.depth=1"]


def test_models_prints_a_line_for_each(call):
    code, text, errors = call("models", "deit_base*_224")
    assert code == 0 and not errors
    assert [line.split()[0] for line in text.splitlines()] == [
        "model",
        "deit_base_distilled_patch16_224",
        "deit_base_patch16_224",
    ]


def test_models_as_json(call):
    _, text, _ = call("models", "vit_base_patch16_224", "--json")
    assert json.loads(text)["parameters"] == 86_567_656


def test_inspect_prints_a_report_and_what_it_does(call):
    code, text, errors = call("inspect", "vit_tiny_patch16_224", *TINY)
    assert code == 0 and text.startswith("vit_tiny_patch16_224: ")
    assert max(map(len, text.splitlines())) <= 80 and "H200" in text
    assert all(line.startswith("tracing ") for line in errors.splitlines())


def test_inspect_as_json(call):
    code, text, _ = call("inspect", "vit_tiny_patch16_224", *TINY, "--mesh", "data=2", "--json")
    told = json.loads(text)
    assert (code, told["batch"], told["rows"], told["image_size"]) == (0, 4, 2, [32, 32])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["models", "vit_bas"], "no model fits the pattern 'vit_bas'; the nearest are "),
        (["models", "vit*", "--jsn"], "unknown argument '--jsn'"),
        (["inspect", "vit_tiny"], "unknown model 'vit_tiny': did you mean "),
        (["inspect", "none.py"], "no recipe at none.py"),
        (["inspect", "vit_tiny_patch16_224", "--image-size", "100"], "use 96 or 112"),
        (["inspect", "vit_tiny_patch16_224", "--image-size", "1", "2", "3"], "one number, or two"),
        (["inspect", "vit_tiny_patch16_224", "--mesh", "data"], "expected AXIS=N"),
        (["inspect", "vit_tiny_patch16_224", "--config.modl=1"], "unknown configuration key"),
    ],
)
def test_errors_are_one_line(call, arguments, message):
    code, text, errors = call(*arguments)
    assert (code, text) == (2, "")
    assert message in errors.splitlines()[-1] and "Traceback" not in errors
