"""docs/recipes.md names every recipe, once, and none that is not there."""

import re

from tests.docs import markdown


def test_every_recipe_is_in_one_table():
    rows = [x for x in markdown.text("docs/recipes.md").splitlines() if x.startswith("|")]
    named = re.findall(r"`(\w+\.py)`", "\n".join(rows))
    assert sorted(named) == sorted(path.name for path in (markdown.ROOT / "configs").glob("*.py"))
