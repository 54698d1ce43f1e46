"""Fine-tuning by low-rank adapters (LoRA, Hu et al. 2021): `config.lora`.

The parameters of the model are frozen, but for those that `lora.trained` announces (a head for
other classes); adapters beside the targets are trained in their place. What the adapters compute,
and why they are not merged during training, is in `vit_jax.models.layers.lora`. Evaluation and
export of a run see the merged model.
"""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax

from vit_jax import naming, ranges
from vit_jax.errors import UserError
from vit_jax.models.layers import lora
from vit_jax.models.layers.lora import Adapter
from vit_jax.objectives.base import Batch, Extra, Metrics, Objective, Params
from vit_jax.training import param_groups, param_rules
from vit_jax.training.param_rules import Rule
from vit_jax.training.partial import freeze
from vit_jax.training.wrapped import Wrapped

LORA_DEFAULTS: dict[str, Any] = {
    "rank": None,  # r; None: no adapters
    "alpha": None,  # the change is alpha / r * B A; None: r
    # Of each block: q, k, v, o, fc1, fc2; or patterns of linear maps, such as "attn_pool/*".
    "targets": ("q", "v"),  # the paper's choice (section 7.1)
    "dropout": 0.0,  # of what enters an adapter
    "trained": ("head/*",),  # patterns of what is trained beside the adapters
    "save_only_adapters": False,  # checkpoints leave out what is frozen, see adapters_only.py
}
# Layer of a block, and which of its matrices.
TARGETS: dict[str, tuple[str, int | None]] = {
    "q": ("attn/qkv", 0),
    "k": ("attn/qkv", 1),
    "v": ("attn/qkv", 2),
    "o": ("attn/proj", None),
    "fc1": ("mlp/fc1", None),
    "fc2": ("mlp/fc2", None),
}

LORA_RANGES: dict[str, ranges.Range] = {
    "rank": ranges.or_none(ranges.whole(1)),
    "alpha": ranges.or_none(ranges.POSITIVE),
    "targets": ranges.PATTERNS,
    "dropout": ranges.RATE,
    "trained": ranges.PATTERNS,
    "save_only_adapters": ranges.TRUE_OR_FALSE,
}


@dataclasses.dataclass(frozen=True)
class Lora(Wrapped):
    """The inner objective with adapters beside some of its parameters.

    Attributes:
      inner: what is learned.
      adapters: of the module.
      drop: rate of dropout before adapters.
    """

    adapters: tuple[Adapter, ...]
    drop: float = 0.0

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Params, Extra]:
        """Returns the parameters of `inner` with new adapters, and its `extra`."""
        params, extra = self.inner.init(rng, batch)
        return lora.draw(jax.random.fold_in(rng, 1), params, self.adapters), extra

    def logical_axes(self, batch: Batch) -> tuple[Any, Any]:
        """Returns the axes of `init`."""
        params, extra = self.inner.logical_axes(batch)
        return lora.name_axes(params, self.adapters), extra

    def with_module_params(
        self, params: Params, extra: Extra, module_params: Params
    ) -> tuple[Params, Extra]:
        """Returns `params` with another model below the adapters, which are new."""
        plain, adapters = lora.apart(params)
        plain, extra = self.inner.with_module_params(plain, extra, module_params)
        return lora.together(plain, adapters), extra

    def loss(
        self, params: Params, extra: Extra, batch: Batch, rng: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, Extra]]:
        """Returns what `inner` returns of the adapted module."""
        if self.drop:
            params = lora.with_keys(params, self.adapters, jax.random.fold_in(rng, 1))
        return super().loss(params, extra, batch, rng, step)

    def all_params(self, params: Params, extra: Extra) -> Params:
        """Returns the parameters of `inner`, adapters merged into them."""
        return self.inner.all_params(lora.merge(params, self.adapters), extra)

    def exported_params(self, params: Params, extra: Extra) -> Params:
        """Returns what `inner` returns for the merged parameters."""
        return self.inner.exported_params(lora.merge(params, self.adapters), extra)

    def after_update(self, params: Params, extra: Extra, step: jax.Array) -> Extra:
        """Returns `extra` after `inner` has seen the merged parameters."""
        return self.inner.after_update(lora.merge(params, self.adapters), extra, step)

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Within it linear maps add what their adapter says."""
        with lora.adapt(self.adapters, self.drop):
            yield


def add_lora(objective: Objective, batch: Batch, options: Any) -> Objective:
    """Returns an objective that trains adapters, and what is announced, of another.

    Args:
      objective: what is learned.
      batch: `jax.ShapeDtypeStruct`s of a batch.
      options: `config.lora`; without a rank the objective is as it was.

    Raises:
      UserError: a value out of range, or a target or a pattern that fits nothing.
    """
    options = {**LORA_DEFAULTS, **options}
    ranges.check(options, LORA_RANGES, "lora.")
    if options["rank"] is None:
        _check_idle(options)
        return objective
    params, _ = jax.eval_shape(objective.init, jax.random.key(0), batch)
    rules = param_rules.rules(params)
    trained = options["trained"]
    param_groups.check_patterns("lora.trained", trained, rules)
    linear = lora.linear_maps(objective.module, batch["image"])
    adapters = find_adapters(rules, linear, options["targets"], options["rank"], options["alpha"])
    adapted = Lora(objective.module, objective, adapters, options["dropout"])

    def is_frozen(name: str) -> bool:
        is_adapter = name.rsplit("/", 1)[-1] in (lora.A, lora.B)
        return not (is_adapter or param_groups.any_fits(trained, name))

    return freeze(adapted, batch, is_frozen)


def _check_idle(options: dict[str, Any]) -> None:
    """Raises UserError for settings that nothing would come of."""
    given = [key for key, default in LORA_DEFAULTS.items() if options[key] != default]
    if given:
        raise UserError(f"lora.{given[0]}={options[given[0]]!r} needs lora.rank, which is None")


def find_adapters(
    rules: Any,
    linear: Collection[tuple[str, ...]],
    targets: Sequence[str],
    rank: int,
    alpha: float | None = None,
) -> tuple[Adapter, ...]:
    """Returns the adapters of a model.

    Args:
      rules: the tree of `param_rules.rules`.
      linear: paths of linear maps, see `lora.linear_maps`; nothing else can be adapted.
      targets: names of `TARGETS`, or patterns of layers such as "encoder/blocks_*/mlp/*".
      rank: r.
      alpha: the change is alpha / r * B A; None: r.

    Raises:
      UserError: no target, a target that fits no linear map, or some layers of a stack alone.
    """
    kernels = [rule for rule in jax.tree.leaves(rules) if rule.path[-1] == "kernel"]
    kernels = [rule for rule in kernels if rule.path[:-1] in linear]
    if not targets:
        raise UserError(f"lora.targets is empty; expected some of {', '.join(TARGETS)}")
    chosen: dict[Rule, set[int | None]] = {}
    for target in targets:
        for rule, part in _fitting(target, kernels):
            chosen.setdefault(rule, set()).add(part)
    scale = (rank if alpha is None else alpha) / rank
    return tuple(_adapter(rule, parts, rank, scale) for rule, parts in chosen.items())


def _fitting(target: str, kernels: Sequence[Rule]) -> list[tuple[Rule, int | None]]:
    """Each kernel that a target means, and which of its matrices (None: all)."""
    names = {
        rule: [name.removesuffix("/kernel") for name in param_rules.layer_names(rule)]
        for rule in kernels
    }
    pattern, part = target, None
    if target in TARGETS:
        layer, part = TARGETS[target]
        pattern = f"*blocks_*/{layer}"
    elif "/" not in target and "*" not in target:
        raise UserError(f"{naming.unknown('target of lora.targets', target, TARGETS)}")
    known = [name for layers in names.values() for name in layers]
    found = set(naming.matching("linear map (lora.targets)", pattern, known))
    partly = [rule for rule, layers in names.items() if 0 < len(found & {*layers}) < len(layers)]
    if partly:
        raise UserError(
            f"lora.targets={target!r} means some layers of {'/'.join(partly[0].path)}, which are "
            "scanned together: take all of them, or set model.scan=False"
        )
    return [(rule, part) for rule, layers in names.items() if found & {*layers}]


def _adapter(rule: Rule, parts: set[int | None], rank: int, scale: float) -> Adapter:
    matrix = param_rules.matrix(rule)
    assert matrix is not None
    first = int(rule.stacked)
    fused = len(rule.shape) - first - len(matrix.inputs) - len(matrix.outputs)
    chosen = None
    if fused:
        count = rule.shape[matrix.inputs[-1] + 1]
        chosen = tuple(range(count)) if None in parts else tuple(sorted(parts))
    return Adapter(rule.path[:-1], rank, scale, len(matrix.inputs), chosen, rule.stacked)
