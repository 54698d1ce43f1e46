"""A mapping file in JSON: which model checkpoints are of, and where each tensor goes.

| key | what it holds |
|---|---|
| "model" | a registered name; without one, "hyper_parameters" are those of `VisionTransformer` |
| "hyper_parameters" | those that differ from the name's, or from the class's defaults |
| "rules" | a list of objects, see below |
| "ignored" | shell patterns of tensors that are not needed, each with the reason |
| "preprocessing" | fields of `Preprocessing`; without them, the name's or the defaults |

A rule is one of `rules.same`, `rules.stacked` and `rules.joined`:

    {"source": NAME, "target": PATH, "pattern": PATTERN}      "pattern" may be left out
    {"sources": [NAME, ...], "target": PATH, "pattern": PATTERN}
    {"source": NAME, "targets": {PATH: PATTERN, ...}}

With `{i}` in its names and paths it stands for one rule a block: i = 0, 1, ... as long as the model
has the (first) parameter.
"""

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax import ranges
from vit_jax.convert.params import by_path, shapes_of
from vit_jax.convert.readers import read_json
from vit_jax.convert.rules import Ignored, Rule, Table, joined, same, stacked
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.registry import Preprocessing
from vit_jax.models.vit import VisionTransformer
from vit_jax.naming import check_known

Json = Mapping[str, Any]
BLOCK = "{i}"
# What no tensor shows, and a file without a model's name therefore has to say.
TRACELESS = ("num_heads", "act_layer", "norm_eps", "global_pool")
KEYS: dict[str, type] = {
    "model": str,
    "hyper_parameters": dict,
    "rules": list,
    "ignored": dict,
    "preprocessing": dict,
}
RULES = (
    {"source": str, "target": str},
    {"source": str, "target": str, "pattern": str},
    {"sources": list, "target": str, "pattern": str},
    {"source": str, "targets": dict},
)


def read(path: Path) -> dict[str, Any]:
    """What the file says: `module`, `make_table`, `name` and `preprocessing` of `own.Own`.

    Raises:
        UserError: it is not JSON, has an unknown key, or a value that does not fit; names it.
    """
    content = read_json(path.parent, path.name)
    assert content is not None
    try:
        return _parse({key: value for key, value in content.items() if value is not None})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _parse(content: Json) -> dict[str, Any]:
    check_known("key", content, KEYS)
    for key, value in content.items():
        _check_type(key, value, KEYS[key])
    rules = content.get("rules")
    if not rules:
        raise UserError('it has no "rules": a list of objects with "source" and "target"')
    for number, rule in enumerate(rules):
        _check_rule(f"rules[{number}]", rule)
    ignored = content.get("ignored", {})
    for pattern, reason in ignored.items():
        _check_type(f'the reason of "ignored" {pattern!r}', reason, str)
    module = _module(content.get("model"), content.get("hyper_parameters", {}))
    return dict(
        module=module,
        make_table=functools.partial(_table, rules, ignored),
        name=content.get("model"),
        preprocessing=_preprocessing(content, module),
    )


def _check_type(what: str, value: Any, kind: type) -> None:
    words = {str: "a string", list: "a list", dict: "an object, {...}"}
    if not isinstance(value, kind):
        raise UserError(f"{what} is {value!r}; expected {words[kind]}")


def _module(name: str | None, hyper_parameters: Json) -> PlainModule:
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in hyper_parameters.items()}
    if name is not None:
        return registry.create_model(name, **values)
    check_known("hyper-parameter of VisionTransformer", values, VisionTransformer.field_ranges())
    unsaid = [field for field in TRACELESS if field not in values]
    if unsaid:
        raise UserError(
            f'without "model", "hyper_parameters" must say {", ".join(unsaid)}: no tensor shows it'
        )
    module = VisionTransformer(**values)
    module.check()
    return module


def _preprocessing(content: Json, module: PlainModule) -> Preprocessing:
    if "preprocessing" not in content:
        name = content.get("model")
        return Preprocessing() if name is None else registry.preprocessing(name)
    given = content["preprocessing"]
    colours = ranges.several(ranges.number(), module.in_chans)
    allowed = {
        **ranges.of_fields(Preprocessing),
        "mean": colours,
        "std": colours,
        "interpolation": ranges.one_of(("bicubic", "bilinear")),
        "crop_mode": ranges.one_of(registry.CROP_MODES),
    }
    check_known("key of preprocessing", given, allowed)
    ranges.check(given, allowed, "preprocessing.")
    return Preprocessing(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


# Rules.


def _check_rule(where: str, rule: Any) -> None:
    """Raises UserError unless `rule` has the keys of one of the three kinds."""
    _check_type(where, rule, dict)
    check_known(f"key of {where}", rule, {key for kind in RULES for key in kind})
    kind = next((kind for kind in RULES if kind.keys() == rule.keys()), None)
    if kind is None:
        expected = " or ".join(str(list(kind)) for kind in RULES)
        raise UserError(f"{where} has {list(rule)}; expected {expected}")
    for key, value in rule.items():
        _check_type(f"{key} of {where}", value, kind[key])
    for name in (*_sources(rule), *rule.get("targets", {}).values()):
        _check_type(f"an entry of {where}", name, str)
    counted = [BLOCK in name for name in (*_sources(rule), *_targets(rule))]
    if any(counted) != all(counted):
        raise UserError(f"{where} has {BLOCK} in some of its names, expected it in all or in none")
    strange = [n for n in (*_sources(rule), *_targets(rule)) if re.search("[{}]", _named(n, ""))]
    if strange:
        raise UserError(f"{where} has {strange[0]!r}: of what is in braces only {BLOCK} is known")


def _sources(rule: Json) -> Sequence[str]:
    return rule["sources"] if "sources" in rule else [rule["source"]]


def _targets(rule: Json) -> Sequence[str]:
    return list(rule["targets"]) if "targets" in rule else [rule["target"]]


def _named(name: str, number: object) -> str:
    return name.replace(BLOCK, str(number))


def _table(rules: Sequence[Json], ignored: Mapping[str, str], module: Any) -> Table:
    """The table of `module`: each rule once, or once a block."""
    paths = by_path(shapes_of(module))
    found = [_rule(rule, i) for rule in rules for i in _numbers(rule, paths)]
    return Table(tuple(found), ignored=tuple(Ignored(k, v) for k, v in ignored.items()))


def _numbers(rule: Json, paths: Collection[str]) -> range:
    """0, 1, ... as long as the model has such a block; 0 alone where the rule counts nothing."""
    first, count = _targets(rule)[0], 1
    while BLOCK in first and _named(first, count) in paths:
        count += 1
    return range(count)


def _rule(rule: Json, i: int) -> Rule:
    """One rule, for block `i` where it speaks of blocks."""
    if "sources" in rule:
        sources = [_named(name, i) for name in rule["sources"]]
        return stacked(sources, _named(rule["target"], i), rule["pattern"])
    source = _named(rule["source"], i)
    if "targets" in rule:
        return joined(source, {_named(p, i): pattern for p, pattern in rule["targets"].items()})
    return same(source, _named(rule["target"], i), rule.get("pattern"))
