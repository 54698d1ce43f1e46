"""docs/visualize.md: every command and all its Python run, in order, on a tiny model."""

import numpy as np

from tests.data.pictures import encode, smooth
from tests.docs import markdown
from tests.visualize.tiny import GRID, vit
from vit_jax.convert import folder, source
from vit_jax.convert.export import export
from vit_jax.visualize.draw import KINDS

PAGE = "docs/visualize.md"


def test_the_table_has_every_kind():
    rows = [
        line.split("|")[1].strip() for line in markdown.text(PAGE).splitlines() if line[:1] == "|"
    ]
    assert rows[2:] == [f"`{name}`" for name in KINDS]


def test_every_command_and_all_python_run(tmp_path, monkeypatch, call):
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(("one", "two")):
        (tmp_path / f"photos/{name}.jpg").write_bytes(encode(smooth(40, 50, seed=i), "JPEG"))
    folder.save(tmp_path / "runs/flowers", vit())
    export(vit(img_size=12, patch_size=2), tmp_path / "hub", "transformers")
    monkeypatch.setattr(source, "download", lambda name, **_: tmp_path / "hub")
    monkeypatch.chdir(tmp_path)
    names = markdown.run(PAGE, call)
    assert list((tmp_path / "pictures").glob("one_*.png"))
    assert names["maps"].patches.shape == (2, *GRID)
    np.testing.assert_allclose(names["mixed"].sum(axis=-1), 1, atol=1e-6)
    assert names["distances"].shape == (2, 2) and len(names["figure"].axes) == 5
