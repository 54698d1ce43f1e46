"""`validate` finds the place where two networks part, and says so; it is right when they do not."""

import dataclasses
import json
import math
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from tests.convert import cases
from tests.convert.cases import tiny_names  # noqa: F401 - a fixture that runs by itself
from tests.docs import markdown
from vit_jax.cli import main as cli
from vit_jax.convert import convert, pretrained
from vit_jax.convert import validate as validate_module
from vit_jax.convert.report import Difference, Report
from vit_jax.convert.validate import validate
from vit_jax.errors import UserError

SHARED = "written by vit_jax's own export"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A folder of Transformers."""
    folder = tmp_path_factory.mktemp("classifier")
    cases.CASES["vit_classifier"](folder, cases.torch.float32)
    return folder


@pytest.fixture
def call(capsys):
    """Calls `vit-jax ARGUMENTS`; returns exit code, output and errors."""

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_two_that_are_the_same(call, classifier, tmp_path):
    report = tmp_path / "report.json"
    code, table, errors = call("validate", classifier, "--gradients", "--json", report)
    assert code == 0, table + errors
    assert "ViTForImageClassification" in table and "outside" not in table
    written = json.loads(report.read_text())
    assert written["ok"] is True and written["first_difference"] is None
    places = [row["place"] for row in written["states"]]
    assert places == ["embedding", "blocks.0", "blocks.1", "norm", "output"]
    model, _ = pretrained.load(classifier)
    leaves = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(model.params)]
    assert len(written["gradients"]) == len(leaves)
    assert all(0 <= row["max_rel"] <= row["limit"] for row in written["gradients"])
    assert not jax.config.jax_enable_x64  # float64 does not leak out of it


# Mistakes, each put into what was loaded


def hyper_parameter(**changed):
    return lambda model: dataclasses.replace(model, module=model.module.clone(**changed))


def leaf(path, change):
    """Changes one array of the stacked blocks, or outside them."""

    def apply(model):
        tree = jax.tree.map(np.array, model.params)
        *parents, name = path.split("/")
        parent = tree
        for part in parents:
            parent = parent[part]
        parent[name] = change(parent[name])
        return dataclasses.replace(model, params=tree)

    return apply


def in_second_block(change):
    def apply(stack):
        stack[1] = change(stack[1])
        return stack

    return apply


def transposed(proj):
    """As if the pattern were "(h c) d -> h c d"."""
    return proj.reshape(cases.WIDTH, cases.WIDTH).T.reshape(proj.shape)


MISTAKES = {
    "epsilon": (hyper_parameter(norm_eps=1e-6), "blocks.0"),
    "activation": (hyper_parameter(act_layer="gelu_tanh"), "blocks.0"),
    "transposed matrix": (
        leaf("encoder/blocks/attn/proj/kernel", in_second_block(transposed)),
        "blocks.1",
    ),
    "queries and keys swapped": (
        leaf("encoder/blocks/attn/qkv/kernel", in_second_block(lambda x: x[:, [1, 0, 2]])),
        "blocks.1",
    ),
    "positions shifted by a row": (
        leaf("pos_embed/table", lambda x: np.roll(x, 1, axis=1)),
        "embedding",
    ),
    "norm after the blocks": (leaf("norm/scale", lambda x: x[::-1]), "norm"),
    "head": (leaf("head/bias", lambda x: x[::-1]), "output"),
    "not a number": (leaf("head/bias", lambda x: x * np.nan), "output"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_first_place_is_named(call, classifier, monkeypatch, tmp_path, mistake):
    change, place = MISTAKES[mistake]
    read = pretrained.read
    monkeypatch.setattr(pretrained, "read", lambda *a, **k: change(read(*a, **k)))
    report = tmp_path / "report.json"
    code, table, errors = call("validate", classifier, "--json", report)
    assert code == 1
    assert errors.strip().endswith(f"the two part at {place}")
    rows = {line.split()[0]: line for line in table.splitlines() if line}
    assert rows[place].endswith("outside")
    assert json.loads(report.read_text())["first_difference"] == place


def test_a_gradient_alone_may_differ():
    """As where a parameter is used, and an operation stops its gradient."""
    rows = (Difference("embedding", 1e-16, 1e-15, 1e-10), Difference("output", 0.0, 0.0, 1e-10))
    gradients = (
        Difference("encoder/blocks_0/norm1/scale", 1e-15, 1e-14, 1e-8),
        Difference("encoder/blocks_0/norm2/scale", 1.0, 1.0, 1e-8),
        Difference("head/bias", math.nan, math.nan, 1e-8),
    )
    report = Report("a", "b", "read by c", "float64", 2, rows, gradients)
    assert report.first_difference == "gradient of encoder/blocks_0/norm2/scale"
    assert not report.ok
    shown = [line for line in report.table().splitlines() if line.startswith("gradient")]
    assert [line.split()[2] for line in shown] == ["encoder/blocks_0/norm2/scale", "head/bias"]
    assert all(line.endswith("outside") for line in shown)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["ours", "theirs", "both"])
def test_a_number_that_is_none_is_outside_the_limits(wrong, side):
    """In a state, in a gradient, and where both have it in the same place."""
    right, broken = np.ones((2, 3)), np.array([[1, 1, 1], [1, wrong, 1]])
    ours = right if side == "theirs" else broken
    theirs = right if side == "ours" else broken
    row = validate_module._difference("output", ours, theirs, 1e-10)
    [gradient] = validate_module._gradient_rows({"head/bias": ours}, {"head/bias": theirs})
    assert not row.ok and not gradient.ok
    report = Report("a", "b", "read by c", "float64", 2, (row,), (gradient,))
    assert report.first_difference == "output"
    assert "outside" in report.table()
    strict = json.loads(report.to_json(), parse_constant=pytest.fail)  # NaN is no JSON
    assert strict["ok"] is False and strict["states"][0]["max_abs"] is None


def test_the_report_file_is_tried_before_the_work(classifier, tmp_path, monkeypatch):
    """And what was there is not lost where there is no report after all."""

    def stop(*arguments, **options):
        raise UserError("the long work")

    monkeypatch.setattr(validate_module, "_load", stop)
    with pytest.raises(UserError, match=r"cannot write .*: .*Is a directory"):
        validate(classifier, json_file=tmp_path)
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        validate(classifier, json_file=tmp_path / "nowhere" / "report.json")
    (tmp_path / "old.json").write_text("{}")
    for name in ("old.json", "new.json"):
        with pytest.raises(UserError, match="the long work"):
            validate(classifier, json_file=tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "{}"


# What it is compared with


def test_through_our_export(classifier, tmp_path):
    """A converted folder holds no file that another library could read."""
    convert.convert(tmp_path / "converted", classifier, report=lambda text: None)
    report = validate(tmp_path / "converted")
    assert report.ok, report.table()
    assert SHARED in report.how and "Transformers" in report.oracle


@pytest.mark.parametrize(
    "name, against, library, how",
    [
        ("timm_vit", None, "timm", "read by timm from the same folder"),
        ("timm_vit", "transformers", "Transformers", SHARED),
        ("augreg", None, "timm", "read by timm from the same file"),
        ("big_vision_scanned", None, "timm", "read by timm from the same file"),
        ("big_vision_bfloat16", None, "timm", SHARED),
        ("original_deit_distilled", None, "timm", "read by timm from the same file"),
        ("original_deit3", None, "timm", "read by timm from the same file"),
        ("original_dinov2", None, "timm", "read by timm from the same file"),
        ("original_dinov2_swiglu_in_chunks", None, "Transformers", SHARED),
        ("original_dinov2_registers", None, "Transformers", SHARED),
        ("dino_training", None, "Transformers", SHARED),
        ("openai_clip", None, "Transformers", SHARED),
        ("clip_two_towers", None, "Transformers", "read by Transformers from the same folder"),
    ],
)
def test_which_library_reads_what(tmp_path, name, against, library, how):
    case = cases.CASES[name](tmp_path, cases.torch.float32)
    report = validate(case.path, against=against, **case.options)
    assert report.ok, report.table()
    assert report.oracle.startswith(library)
    assert how in report.how


def test_a_users_own_module(tmp_path):
    markdown.write_files("docs/convert.md", tmp_path)
    from vit_jax.convert import own

    theirs = cases.randomize(
        own.torch_module(own.read(tmp_path / "my_vit.py")), cases.torch.float32
    )
    cases.torch.save(theirs.state_dict(), tmp_path / "mine.pth")
    report = validate(tmp_path / "mine.pth", mapping=tmp_path / "my_vit.py", gradients=True)
    sys.modules.pop("my_model", None)
    assert report.ok, report.table()
    assert "my_vit.py" in report.oracle


def test_a_photo_is_compared_as_well(classifier, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    report = validate(classifier, photo=tmp_path / "photo.png")
    assert report.ok, report.table()
    assert report.images == 3


# What it refuses


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--gradients", "--dtype", "float32"], "gradients are compared in float64"),
        (["--against", "timm"], "cannot say norm_eps=1e-12"),
        (["--json", "nowhere/report.json"], "cannot write nowhere/report.json"),
        (["--photo", "nowhere.jpg"], "no picture at nowhere.jpg"),
        (["--config.seed=1"], "unknown argument '--config.seed=1'"),
        (["--offlin"], "unknown argument '--offlin'"),
    ],
)
def test_bad_input(call, classifier, arguments, message):
    code, _, errors = call("validate", classifier, *arguments)
    assert code == 2
    assert message in errors


def test_no_such_source(call, tmp_path):
    code, _, errors = call("validate", tmp_path / "nothing")
    assert code == 2 and "nothing" in errors


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_a_library_that_is_missing(classifier, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"needs {library}.*pip install vit_jax\[torch\]"):
        validate(classifier)


def test_a_folder_that_lacks_weights(tmp_path):
    """Transformers would draw them anew, and compare with that."""
    case = cases.CASES["vit_classifier"](tmp_path, cases.torch.float32)
    from safetensors.torch import load_file, save_file

    from vit_jax.convert.layouts import transformers_vit
    from vit_jax.convert.oracles import transformers

    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    module = cases.VisionTransformer(**cases.OURS)
    with pytest.raises(UserError, match=r"lacks weights of .* 'classifier\.bias'"):
        transformers.load(case.path, module, transformers_vit.LAYOUTS[0], "")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_weights_that_transformers_leaves_out(tmp_path):
    """What ours needs is an error; what no result depends on is told."""
    cases.CASES["clip_two_towers"](tmp_path, cases.torch.float32)
    change_config(tmp_path, architectures=["CLIPVisionModel"])
    with pytest.raises(UserError) as error:
        validate(tmp_path)
    assert "CLIPVisionModel has no place for and leaves out: 'visual_projection.weight'" in str(
        error.value
    )
    change_config(tmp_path, architectures=["CLIPVisionModelWithProjection"])
    how = validate(tmp_path).how
    assert how.startswith("read by Transformers from the same folder; it leaves out 22 tensors")
    assert "'logit_scale'" in how


def test_a_class_that_is_no_model(tmp_path):
    """The name comes from a file: it is looked up among models alone."""
    case = cases.CASES["vit_classifier"](tmp_path, cases.torch.float32)
    change_config(tmp_path, architectures=["pipeline"])
    with pytest.raises(UserError, match="'pipeline', which is no model of Transformers"):
        validate(case.path)


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
def test_a_backbone_is_compared_as_the_model_of_its_weights(tmp_path, kind):
    theirs = cases.hugging_face(f"{kind}Backbone", f"{kind}Config", **cases.DINO)()
    cases.randomize(theirs, cases.torch.float32).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="does not say how images are prepared"):
        report = validate(tmp_path)
    assert report.ok and report.oracle.endswith(f"{kind}Model")
    assert [row.place for row in report.states][-2:] == ["norm", "output"]
