import pytest
from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.training import overrides
from vit_jax.training.config import OPEN_SECTIONS, base_config, from_json, load_config, to_json
from vit_jax.training.resolve import check


def with_overrides(*texts):
    config = base_config()
    for text in texts:
        overrides.apply(config, text, OPEN_SECTIONS)
    return config


@pytest.fixture
def recipe(tmp_path):
    def write(*lines):
        path = tmp_path / "recipe.py"
        head = "from vit_jax.training.config import base_config\ndef get_config():\n"
        body = ["config = base_config()", *lines, "return config"]
        path.write_text(head + "".join(f"    {line}\n" for line in body))
        return path

    return write


@pytest.mark.parametrize(
    "text, section, key, value",
    [
        ("optim.lr=1e-4", "optim", "lr", 1e-4),
        ("optim.lr=1", "optim", "lr", 1.0),  # an int where a float belongs
        ("optim.clip_norm=1", "optim", "clip_norm", 1),  # None accepts anything
        ("accumulate_steps=1.5", None, "accumulate_steps", 1.5),  # for `resolve.check` to refuse
        ("model.img_size=[8, 16]", "model", "img_size", [8, 16]),
        ("data.mean={[]: 1}", "data", "mean", "{[]: 1}"),  # no literal
        ("data.mean={'a.b': 1}", "data", "mean", "{'a.b': 1}"),  # a dict is no value
        ("data.mean=" + 5000 * "-" + "1", "data", "mean", 5000 * "-" + "1"),
        ("sharding_rules.new=data", "sharding_rules", "new", "data"),
        ("data.source=folder:/a=b", "data", "source", "folder:/a=b"),
        ("data.source=123", "data", "source", "123"),  # text that looks like a number
        ("data.cache=True", "data", "cache", True),
        ("sharding_rules.mlp=None", "sharding_rules", "mlp", None),
        ("sharding_rules.embed=['data']", "sharding_rules", "embed", ("data",)),
        ("distributed.coordinator=127.0.0.1:1234", "distributed", "coordinator", "127.0.0.1:1234"),
        ("model.img_size=(8, 16)", "model", "img_size", (8, 16)),
        ("model.depth=3", "model", "depth", 3),  # not in the recipe, but open
        ("model.global_pool=avg", "model", "global_pool", "avg"),
    ],
)
def test_override(text, section, key, value):
    config = with_overrides(text)
    found = (config[section] if section else config)[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("optim.rl=1", "unknown configuration key 'optim.rl': did you mean 'optim.lr'"),
        ("lr=1", "unknown configuration key 'lr': did you mean 'optim.lr'?"),
        ("optim.adamw.b3=1", "did you mean 'optim.adamw.b2' or 'optim.adamw.b1'"),
        ("total_epoch=1", "did you mean 'total_epochs'"),
        ("model.a.b=1", "unknown configuration key 'model.a.b'"),
        ("seed=True", "seed = 'True' is bool, expected int"),
        ("optim.lr=fast", "optim.lr = 'fast' is str, expected float"),
        ("data.cache=1", "data.cache = '1' is int, expected bool"),
        ("optim=1", "optim is a section, not a value; set one of optim.adafactor, optim.adamw"),
        ("seed", "expected key=value"),
    ],
)
def test_wrong_override(text, message):
    with pytest.raises(UserError) as error:
        with_overrides(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "line, override, key, value",
    [
        ("config.total_epochs = 12", "total_epochs=0.5", "total_epochs", 0.5),
        ("config.optim.clip_norm = 1", "optim.clip_norm=0.3", "optim.clip_norm", 0.3),
        ("config.model.img_size = 8", "model.img_size=(8, 16)", "model.img_size", (8, 16)),
        ("config.model.mlp_ratio = 2.0", "model.mlp_ratio=3", "model.mlp_ratio", 3.0),
    ],
)
def test_a_value_of_another_type_that_the_key_may_have(recipe, line, override, key, value):
    config = load_config(recipe(line), [override])
    found = overrides.value_of(config, key)
    assert found == value and type(found) is type(value)
    check(config)


def test_recipe(recipe):
    config = load_config(recipe("config.seed = 3", "config.model.depth = 2"), ["seed=4"])
    assert (config.seed, config.model.depth) == (4, 2)
    assert config.is_locked and config.optim.is_locked


def test_unknown_key_in_a_recipe(recipe):
    with pytest.raises(ValueError, match=r"unknown configuration key 'weight_deca'.*weight_decay"):
        load_config(recipe("config.optim.weight_deca = 1"))


def test_a_mistake_in_a_recipe_keeps_its_traceback(recipe):
    with pytest.raises(AttributeError, match="'int' object has no attribute 'oops'"):
        load_config(recipe("config.seed.oops = 1"))


def test_not_a_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recipe at"):
        load_config(tmp_path / "missing.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=r"no function get_config\(\)"):
        load_config(tmp_path / "empty.py")
    (tmp_path / "none.py").write_text("def get_config():\n    return None\n")
    with pytest.raises(ValueError, match="expected a ConfigDict"):
        load_config(tmp_path / "none.py")


def test_json_round_trip():
    config = with_overrides("model.img_size=(8, 16)", "optim.lr=0.1", "total_steps=7")
    again = from_json(to_json(config))
    assert again == config
    assert again.is_locked and not again.model.is_locked
    hash(again.model.img_size)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"seed": 0, "model"', "not the JSON of a configuration: Expecting"),
        ("[]", "it has no section 'model'"),
        ('{"model": 3}', "it has no section 'model'"),
        ('{"model": {}, "objective": {"a.b": 1}, "sharding_rules": {}}', "dots in field names"),
    ],
)
def test_json_that_is_no_configuration(text, message):
    with pytest.raises(UserError, match=message):
        from_json(text)


def test_json_says_what_it_cannot_hold():
    config = base_config()
    config.model.dtype = object()
    with pytest.raises(ValueError, match="cannot be saved"):
        to_json(config)


def test_base_config_is_new_each_time():
    base_config().optim.adamw.b1 = 0.5
    assert base_config().optim.adamw.b1 == 0.9
    assert isinstance(base_config().optim.muon, ConfigDict)
