"""A user's own checkpoint: the worked example of docs/convert.md, and mistakes in mapping files."""

import copy
import json
import sys

import jax
import numpy as np
import pytest
import safetensors.torch
import torch

import vit_jax
from tests.docs import markdown
from vit_jax.convert import export, own, params, pretrained
from vit_jax.convert.mapping import outward
from vit_jax.convert.rules import Table, same
from vit_jax.errors import MissingFileError, UserError

pytestmark = pytest.mark.filterwarnings("error:Explicitly requested dtype:UserWarning")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A folder with the files of the worked example, and `mine.pth` of a randomised MyViT."""
    folder = tmp_path_factory.mktemp("own")
    markdown.write_files("docs/convert.md", folder)
    theirs = randomized(own.torch_module(own.read(folder / "my_vit.py")))
    torch.save(theirs.state_dict(), folder / "mine.pth")
    yield folder, theirs
    sys.modules.pop("my_model", None)


def randomized(theirs):
    """Every tensor drawn anew, in float64; norms' scales around 1."""
    generator = torch.Generator().manual_seed(0)
    theirs = theirs.double()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            noise = 0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.copy_(noise + (1 if "norm" in name and name.endswith("weight") else 0))
    return theirs


def worst(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def test_it_computes_what_its_own_code_computes(example):
    """Logits, the tokens after each block and the gradient of every parameter, in float64."""
    folder, theirs = example
    theirs = copy.deepcopy(theirs)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3))
    weight = np.random.default_rng(2).normal(size=(2, 5))
    told, hidden = own.read(folder / "my_vit.py"), []
    for block in told.blocks(theirs):
        block.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    logits = theirs(torch.tensor(images.transpose(0, 3, 1, 2)))
    (logits * torch.tensor(weight)).sum().backward()

    mapping = folder / "my_vit.json"
    loaded, report = pretrained.load(folder / "mine.pth", mapping=mapping, param_dtype="source")
    module = loaded.module
    assert len(report.taken) == len(theirs.state_dict())
    with jax.enable_x64(True):

        def loss(tree):
            output, seen = module.apply({"params": tree}, images, capture=("tokens",))
            return (output * weight).sum(), (output, seen.tokens)

        differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, (output, tokens)), grads = differentiate(loaded.params)
        output, tokens, grads = jax.device_get((output, tokens, grads))
    assert worst(output, logits.detach().numpy()) <= 1e-10
    assert len(hidden) == len(tokens) == 2
    for ours, block in zip(tokens, hidden):
        assert worst(ours, block.detach().numpy()) <= 1e-10
    back = outward(params.by_path(grads), own.read(mapping).table(module))
    for name, p in theirs.named_parameters():
        assert worst(back[name].read(), p.grad.numpy()) <= 1e-8, name


def test_json_and_python_say_the_same(example):
    told = [own.read(example[0] / name) for name in ("my_vit.json", "my_vit.py")]
    assert told[0].module == told[1].module
    first, second = (one.table(one.module) for one in told)
    assert sorted(first.rules, key=str) == sorted(second.rules, key=str)


def test_blocks_may_be_scanned_and_the_classes_others(example):
    folder, theirs = example
    options = dict(mapping=folder / "my_vit.json", param_dtype="source", scan=True, num_classes=3)
    loaded, report = pretrained.load(folder / "mine.pth", **options)
    assert report.drawn == ("head/bias", "head/kernel")
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {np.dtype(np.float64)}
    stacked = loaded.params["encoder"]["blocks"]["attn"]["qkv"]["bias"]
    expected = [layer.self_attn.in_proj_bias.detach().numpy() for layer in theirs.encoder.layers]
    np.testing.assert_array_equal(stacked.reshape(2, -1), expected)


@pytest.mark.parametrize("name", ["my_vit.json", "my_vit.py"])
def test_out_again_into_its_own_names(example, tmp_path, name):
    folder, theirs = example
    told = folder / name
    loaded, _ = pretrained.load(folder / "mine.pth", mapping=told, param_dtype="source")
    export.export(loaded, tmp_path / "out", "own", mapping=told)
    fresh = own.torch_module(own.read(folder / "my_vit.py")).double()
    safetensors.torch.load_model(fresh, tmp_path / "out/model.safetensors")
    for key, value in theirs.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key


def test_a_fine_tuned_model_goes_out_if_the_code_can_tell(example, tmp_path):
    folder, _ = example
    told = folder / "my_vit.json"
    options = dict(mapping=told, param_dtype="source")
    tuned, _ = pretrained.load(folder / "mine.pth", num_classes=7, img_size=48, **options)
    export.export(tuned, tmp_path / "out", "own", mapping=told)
    written = safetensors.torch.load_file(tmp_path / "out/model.safetensors")
    assert written["classify.weight"].shape == (7, 48)
    assert written["positions"].shape == (37, 48)
    other, _ = pretrained.load(folder / "mine.pth", norm_eps=1e-3, **options)
    with pytest.raises(UserError, match=r"cannot say norm_eps=0\.001"):
        export.export(other, tmp_path / "other", "own", mapping=told)
    with pytest.raises(UserError, match="go together"):
        export.export(tuned, tmp_path / "other", "own")
    with pytest.raises(UserError, match="go together"):
        export.export(tuned, tmp_path / "other", "timm", mapping=told)
    assert not (tmp_path / "other").exists()


def test_what_it_says_of_preprocessing_is_kept(example, tmp_path):
    content = json.loads((example[0] / "my_vit.json").read_text())
    content["preprocessing"] = {"mean": [0.1, 0.2, 0.3], "crop_mode": "squash"}
    found = own.read(written(tmp_path, content)).preprocessing
    assert (found.mean, found.crop_mode, found.std) == ((0.1, 0.2, 0.3), "squash", (0.5,) * 3)


def test_three_sources_and_two_targets(tmp_path):
    """The two other kinds of rule, on tensors whose every number is known."""
    content = {
        "model": "vit_tiny_patch16_224",
        "hyper_parameters": dict(embed_dim=4, depth=1, num_heads=2, num_classes=0),
        "rules": [
            {"sources": ["q", "k", "v"], "target": "a", "pattern": "k (h c) d -> d k h c"},
            {"source": "kv", "targets": {"b": "o i -> i o", "c": "(k m) d -> d k m"}},
        ],
    }
    told = own.read(written(tmp_path, content))
    first, second = told.make_table(told.module).rules
    assert (first.kind, first.sources, first.targets) == ("stacked", ("q", "k", "v"), ("a",))
    assert (second.kind, second.targets) == ("joined", ("b", "c"))
    assert second.patterns == ("o i -> i o", "(k m) d -> d k m")


# Mistakes.


def written(folder, content):
    path = folder / "mapping.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def rule(source, target, **more):
    return {"source": source, "target": target, **more}


def replaced(content, number, **new):
    content["rules"][number] = new


MISTAKES = {
    "no rules": (lambda c: c.pop("rules"), 'it has no "rules"'),
    "unknown key": (lambda c: c.update(rule=[]), "unknown key 'rule': did you mean 'rules'"),
    "rules are no list": (lambda c: c.update(rules="x"), "rules is 'x'; expected a list"),
    "model is a number": (lambda c: c.update(model=3), "model is 3; expected a string"),
    "unknown model": (
        lambda c: c.update(model="vit_bse_patch16_224"),
        "did you mean 'vit_base_patch16_224'",
    ),
    "unknown hyper-parameter": (
        lambda c: c["hyper_parameters"].update(dept=3),
        "did you mean 'depth'",
    ),
    "what no tensor shows": (
        lambda c: c.update(model=None),
        "must say act_layer, global_pool: no tensor shows it",
    ),
    "rule is a text": (lambda c: c["rules"].append("x"), "is 'x'; expected an object"),
    "unknown key of a rule": (
        lambda c: replaced(c, 1, source="embed.bias", traget="patch_embed/bias"),
        "unknown key of rules[1] 'traget': did you mean 'target'",
    ),
    "source and sources": (
        lambda c: c["rules"][1].update(sources=["a"]),
        "rules[1] has ['source', 'target', 'sources']; expected ['source', 'target'] or",
    ),
    "sources without a pattern": (
        lambda c: replaced(c, 1, sources=["a", "b"], target="patch_embed/bias"),
        "rules[1] has ['sources', 'target']; expected",
    ),
    "no target": (lambda c: c["rules"][1].pop("target"), "rules[1] has ['source']; expected"),
    "pattern is a list": (
        lambda c: c["rules"][0].update(pattern=[]),
        "pattern of rules[0] is []; expected a string",
    ),
    "a source is a number": (
        lambda c: replaced(c, 1, sources=[1, 2], target="patch_embed/bias", pattern="a b -> a b"),
        "an entry of rules[1] is 1; expected a string",
    ),
    "blocks on one side": (
        lambda c: c["rules"][4].update(target="encoder/blocks_0/norm1/scale"),
        "rules[4] has {i} in some of its names, expected it in all or in none",
    ),
    "other braces": (
        lambda c: c["rules"][1].update(source="embed.{j}.bias"),
        "rules[1] has 'embed.{j}.bias': of what is in braces only {i} is known",
    ),
    "a reason is missing": (
        lambda c: c.update(ignored={"*.ids": None}),
        "the reason of \"ignored\" '*.ids' is None; expected a string",
    ),
    "unknown key of preprocessing": (
        lambda c: c.update(preprocessing={"men": [0, 0, 0]}),
        "unknown key of preprocessing 'men': did you mean 'mean'",
    ),
    "one colour": (
        lambda c: c.update(preprocessing={"mean": [0.5]}),
        "preprocessing.mean is [0.5]; expected a tuple of 3 entries",
    ),
    "unknown filter": (
        lambda c: c.update(preprocessing={"interpolation": "cubic"}),
        "preprocessing.interpolation is 'cubic'; expected one of 'bicubic', 'bilinear'",
    ),
    # What is noticed when the model is known.
    "unknown target": (
        lambda c: c["rules"][1].update(target="patch_embed/bais"),
        "unknown parameter 'patch_embed/bais': did you mean 'patch_embed/bias'",
    ),
    "unknown target in a block": (
        lambda c: c["rules"][4].update(target="encoder/blocks_{i}/nrm1/scale"),
        "unknown parameter 'encoder/blocks_0/nrm1/scale': did you mean",
    ),
    "a parameter twice": (
        lambda c: c["rules"].append(rule("again", "head/bias")),
        "parameter in two rules: head/bias",
    ),
    "a parameter without a rule": (lambda c: c["rules"].pop(), "parameter in no rule: head/bias"),
    "a tensor twice": (
        lambda c: c["rules"][1].update(source="embed.weight"),
        "tensor in two rules: embed.weight",
    ),
    "too few axes": (
        lambda c: c["rules"][0].update(pattern="o p q -> p q o"),
        "'patch_embed/kernel' from 'embed.weight': pattern 'o p q -> p q o' does not fit a "
        "parameter of shape (8, 8, 3, 48)",
    ),
    "a long axis called 1": (
        lambda c: c["rules"][2].update(pattern="1 d -> d 1 1"),
        "and calls one of 48 entries 1",
    ),
    "axes that differ": (
        lambda c: c["rules"][0].update(pattern="o i p q -> p q i x"),
        "must have the same axes on both sides, each once",
    ),
    "an axis twice": (
        lambda c: c["rules"][0].update(pattern="o i p p -> p p i o"),
        "must have the same axes on both sides, each once",
    ),
    "no arrow": (lambda c: c["rules"][0].update(pattern="o i p q"), "'o i p q' is none"),
    "open parenthesis": (
        lambda c: c["rules"][6].update(pattern="(k h c d -> d k h c"),
        "'(k h c d -> d k h c' is none",
    ),
    "a square matrix without a pattern": (
        lambda c: (c["hyper_parameters"].update(mlp_ratio=1), c["rules"][14].pop("pattern")),
        "'encoder/blocks_0/mlp/fc2/kernel' from 'encoder.layers.0.linear2.weight': axes of the "
        "parameter (48, 48) have the same length",
    ),
    "a pattern of other sizes": (  # a matrix that is not transposed
        lambda c: c["rules"][12].update(pattern="i o -> i o"),
        "encoder.layers.0.linear1.weight is (192, 48), expected (48, 192)",
    ),
    "a tensor that is not there": (
        lambda c: c["rules"][1].update(source="embed.bais"),
        "missing (1): embed.bais\n  not the model's (1): embed.bias",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_json(example, tmp_path, mistake):
    change, message = MISTAKES[mistake]
    content = json.loads((example[0] / "my_vit.json").read_text())
    change(content)
    path = written(tmp_path, content)
    with pytest.raises(UserError) as error:
        pretrained.load(example[0] / "mine.pth", mapping=path, param_dtype="source")
    assert message in str(error.value)


def test_a_square_matrix_needs_a_pattern_in_python_too(example, tmp_path):
    told = own.read(example[0] / "my_vit.py")
    rules = list(told.make_table(told.module).rules)
    at = next(i for i, r in enumerate(rules) if r.sources == ("positions",))
    rules[at] = same("positions", "pos_embed/table")  # (1, 17, 48): nothing to confuse
    own.check_table(Table(tuple(rules)), told.module)
    square = vit_jax.create_model("vit_tiny_patch16_224", depth=1, num_classes=192)
    with pytest.raises(UserError, match=r"'head/kernel' .* of the parameter \(192, 192\) have"):
        own.check_table(Table((same("classify.weight", "head/kernel"),)), square)


def test_files_that_are_no_mapping(example, tmp_path):
    source = example[0] / "mine.pth"
    with pytest.raises(MissingFileError, match=r"no mapping at .*nowhere\.json"):
        pretrained.load(source, mapping=tmp_path / "nowhere.json")
    with pytest.raises(UserError, match=r"ends in \.json or \.py"):
        pretrained.load(source, mapping=source)
    for text, message in (("{", "not JSON"), ('{"rules": [], "rules": []}', "'rules' twice")):
        with pytest.raises(UserError, match=message):
            pretrained.load(source, mapping=written(tmp_path, text))


@pytest.mark.parametrize(
    "code, message",
    [
        ("", r"it has no function model\(\)"),
        ("def model(): return 3", r"it has no function table\(\)"),
        ("table = model = int", r"returned int, expected a module of this library"),
        (
            "import vit_jax\nmodel = lambda: vit_jax.create_model('vit_tiny_patch16_224')\n"
            "table = lambda module: []",
            r"table\(\) returned list, expected vit_jax.convert.rules.Table",
        ),
        (
            "import vit_jax\nmodel = lambda: vit_jax.create_model('vit_tiny_patch16_224')\n"
            "table = print\nPREPROCESSING = {}",
            "PREPROCESSING of .* is dict, expected",
        ),
    ],
)
def test_a_mistake_in_python(example, tmp_path, code, message):
    path = tmp_path / "mapping.py"
    path.write_text(code)
    with pytest.raises(UserError, match=message):
        pretrained.load(example[0] / "mine.pth", mapping=path, param_dtype="source")


def test_an_error_of_the_users_code_stays_what_it_is(tmp_path):
    path = tmp_path / "mapping.py"
    path.write_text("1 / 0")
    before = list(sys.path)
    with pytest.raises(ZeroDivisionError):
        own.read(path)
    assert sys.path == before


def test_one_of_model_and_mapping(example):
    folder, _ = example
    with pytest.raises(UserError, match="are both given"):
        pretrained.load(folder / "mine.pth", "vit_base_patch16_224", mapping=folder / "my_vit.py")


def test_nothing_to_compare_with(example):
    with pytest.raises(UserError, match=r"has no function build\(\)"):
        own.torch_module(own.read(example[0] / "my_vit.json"))
