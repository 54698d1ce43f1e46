"""What a visitor meets first: what an import costs, and what the wheel holds."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

BUILD_AND_RUN_A_MODEL = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} must not be needed here")

BLOCKED = {"grain", "tensorflow_datasets", "ml_collections", "tensorflow", "torch", "PIL",
           "sklearn", "tensorboardX", "tqdm", "chex"}
sys.meta_path.insert(0, Refuse())
import jax, jax.numpy as jnp, vit_jax
model = vit_jax.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
images = jnp.ones((1, 32, 32, 3))
print(model.apply(model.init(jax.random.key(0), images), images).shape)
"""


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_models_need_jax_flax_and_numpy_alone():
    result = run(sys.executable, "-c", BUILD_AND_RUN_A_MODEL)
    assert result.stdout.strip() == "(1, 1000)", result.stderr


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, vit_jax; print(sorted(m for m in sys.modules if m in ('jax', 'numpy')))"
    result = run(sys.executable, "-c", code)
    assert result.stdout.strip() == "[]", result.stderr


def test_unknown_top_level_name():
    import vit_jax

    with pytest.raises(AttributeError, match="it has"):
        vit_jax.creat_model  # noqa: B018


@pytest.mark.slow
def test_wheel_holds_the_whole_package_and_its_command_runs(tmp_path):
    # A copy, so that an old build folder in the checkout cannot lend a file to the wheel.
    listed = run("git", "ls-files", cwd=ROOT).stdout.split() or pytest.skip("not a git checkout")
    source = tmp_path / "source"
    for name in listed:
        if (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    built = run(*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(source))
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("vit_jax-*.whl")
    site = tmp_path / "site"
    installed = run(*pip, "install", "--no-deps", "--target", str(site), str(wheel))
    assert installed.returncode == 0, installed.stderr
    files = (p for p in site.glob("vit_jax/**/*") if p.is_file() and p.suffix != ".pyc")
    assert {str(p.relative_to(site)) for p in files} == {
        name for name in listed if name.startswith("vit_jax/")
    }
    environment = {"PYTHONPATH": str(site), "PATH": str(pathlib.Path(sys.executable).parent)}
    where = run(
        sys.executable,
        "-c",
        "import vit_jax; print(vit_jax.__file__)",
        env=environment,
        cwd=tmp_path,
    )
    assert where.stdout.startswith(str(site))
    shown = run(str(site / "bin" / "vit-jax"), "--help", env=environment, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "train" in shown.stdout
    assert "eval" in shown.stdout
