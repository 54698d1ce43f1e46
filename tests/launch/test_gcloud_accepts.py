"""gcloud's own parser accepts each command that we print; it is asked where gcloud is installed.

It reads the command line only: nothing is looked up and nothing is run.
"""

import json
import os
import shutil
import subprocess

import pytest

from vit_jax.launch.gcloud import quoted
from vit_jax.launch.tpu_vm import RUNTIME_VERSIONS, Hardware, Tpu

GCLOUD = shutil.which("gcloud")
TPU = Tpu("mine", "us-central2-b", "my-project", ("--internal-ip",))
HARDWARE = [
    *(Hardware(f"{name}-16", queued=i % 2 == 0) for i, name in enumerate(RUNTIME_VERSIONS)),
    Hardware(type="v4", topology="2x2x1", spot=True),
    Hardware(type="v4", topology="2x2x2", queued=True, autocheckpoint=False),
    Hardware("v4-8", flags=("--network=mine", "--reserved"), autocheckpoint=False),
    Hardware("v4-8", flags=("--valid-until-duration=6h",), queued=True, spot=True),
]


def commands():
    for group in ("tpu-vm", "queued-resources"):
        yield TPU.command(group, "describe", "--format=json")
    yield TPU.command("tpu-vm", "delete")
    yield TPU.command("queued-resources", "delete", "--force")
    yield TPU.ssh("python -m x --y 'z'")
    yield TPU.scp("/tmp/file.tar.gz", "folder/file.tar.gz")
    for hardware in HARDWARE:
        yield hardware.create(TPU)


@pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed")
def test_gcloud_accepts_every_command(tmp_path):
    texts = [" ".join(map(quoted, ["gcloud", *x, "--quiet"])) for x in commands()]
    wrong = "gcloud compute tpus tpu-vm create x --zone=z --version=v --no-such-option=1"
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([{"command_string": text} for text in [*texts, wrong]]))
    asked = subprocess.run(
        [GCLOUD, "meta", "lint-gcloud-commands", f"--commands-file={file}"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "CLOUDSDK_CONFIG": str(tmp_path),
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
        },
    )
    if asked.returncode or not asked.stdout.startswith("["):
        pytest.skip(f"this gcloud does not check command lines: {asked.stderr[-200:]}")
    found = json.loads(asked.stdout)
    assert len(found) == len(texts) + 1
    *ours, last = found
    assert not last["success"]
    refused = {x["command_string"]: x["error_message"] for x in ours if not x["success"]}
    assert refused == {}
