"""docs/convert.md: every command and every piece of Python in it runs, in order, on tiny models.

What the page loads from the hub comes from a server on the loopback address. The names of models
are made tiny, training is made short; nothing else differs from what a reader would type.
"""

import os
import sys

import numpy as np
import pytest
from huggingface_hub import constants

from tests.convert.hub_server import client_turned_to_one
from tests.data.pictures import encode, smooth
from tests.docs import markdown
from vit_jax import models
from vit_jax.cli import memory
from vit_jax.convert import layouts, mapping, params
from vit_jax.convert.export import choose_layout, export
from vit_jax.convert.folder import Model
from vit_jax.convert.torch_libraries import import_library
from vit_jax.convert.writers import write_torch
from vit_jax.models import registry

PAGE = "docs/convert.md"
TINY = dict(embed_dim=32, depth=2, num_heads=4, img_size=32)
SHORTER = [
    "total_epochs=1",
    "data.batch_size=8",
    "data.workers=0",
    "schedule.warmup_epochs=0",
    "eval_every_epochs=1",
]


def test_layouts_in_the_table_are_those_that_there_are():
    rows = [line.split("|") for line in markdown.text(PAGE).splitlines() if line.startswith("| `")]
    named = {tuple(cell.strip(" `") for cell in row[1:3]) for row in rows if len(row) == 7}
    there = {(layout.name, layout.family) for layout in layouts.LAYOUTS}
    assert named == there | {("own", "your file's name")}


def test_every_block_is_of_a_kind_that_is_run():
    for block in markdown.blocks(PAGE):
        is_file = block.mark.startswith("file: ")
        assert is_file or block.language in ("python", "bash"), f"line {block.line}"


@pytest.mark.slow
def test_the_page_from_top_to_bottom(reader, call):
    namespace = markdown.run(PAGE, call, SHORTER)
    logits = namespace["module"].apply(namespace["variables"], np.zeros((1, 32, 32, 3)))
    assert logits.shape == (1, 3)  # of the last block


@pytest.fixture
def reader(tmp_path, monkeypatch, hub):
    """A folder to work in, with the files that the page assumes."""
    for library in ("timm", "transformers"):
        import_library(library, "this test")
    spec = registry.model_spec("vit_base_patch16_224")
    tiny = registry.ModelSpec(spec.module, TINY, spec.preprocessing)
    monkeypatch.setitem(registry._MODELS, "vit_base_patch16_224", tiny)
    hub.add("google/vit-base-patch16-224", exported(tmp_path, "transformers", norm_eps=1e-12))
    dino = dict(num_classes=0, patch_size=14, img_size=70, init_values=1.0)
    hub.add("facebook/dinov2-small", exported(tmp_path, "transformers", **dino))
    hub.add("timm/vit_base_patch16_224.augreg_in21k", exported(tmp_path, "timm"))

    folder = tmp_path / "reader"
    folder.mkdir()
    npz = exported(tmp_path, "npz", act_layer="gelu_tanh")
    (folder / "B_16.npz").write_bytes(npz["model.npz"])
    write_torch(folder / "weights.pth", timm_tensors(randomized(num_classes=1000)))
    write_torch(folder / "own.pth", timm_tensors(randomized(num_classes=1000, depth=1)))
    (folder / "configs").symlink_to(markdown.ROOT / "configs")
    (folder / "photo.jpg").write_bytes(encode(smooth(40, 50), "JPEG"))
    for i in range(40):
        path = folder / "pictures" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(smooth(40, 50, seed=i), "JPEG"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("GLIBC_TUNABLES", f"{memory.TUNABLE}=1")  # `train` does not start anew
    save_own()
    yield folder
    sys.modules.pop("my_model", None)


def save_own():
    """What the page says of "mine.pth", with every weight drawn."""
    import torch

    files = {block.mark: block.text for block in markdown.blocks(PAGE)}
    namespace = {}
    exec(files["file: my_model.py"], namespace)
    theirs = namespace["MyViT"]()
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(0.3 * torch.randn(p.shape))
    torch.save(theirs.state_dict(), "mine.pth")


def randomized(**options):
    module = models.create_model("vit_base_patch16_224", **options)
    tree, rng = params.allocate(module, np.float32), np.random.default_rng(0)
    for leaf in params.by_path(tree).values():
        leaf[...] = 0.3 * rng.normal(size=leaf.shape)
    return Model(module, tree, models.preprocessing("vit_base_patch16_224"))


def exported(folder, format, **options):
    """The files of a tiny model in another library's layout: their contents by name."""
    output = folder / f"exported-{len(os.listdir(folder))}"
    export(randomized(**options), output, format)
    return {path.name: path.read_bytes() for path in output.iterdir()}


def timm_tensors(model):
    _, table, _ = choose_layout(model, "timm")
    return mapping.outward(params.by_path(model.params), table)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on the loopback address, and a client that knows no other."""
    with client_turned_to_one(monkeypatch) as server:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
