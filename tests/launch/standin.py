"""A stand-in for `gcloud`: records what it is asked, plays failures, runs what is sent by ssh.

A cloud is a folder:

calls.jsonl      one line a call, the arguments
cloud.json       nodes and queued resources by name, and the plays that are still to come
bin/             gcloud, uv, vit-jax
vms/NAME/INCARNATION/WORKER/   the home folders
bucket/          what all workers see

A command that is sent by ssh runs under bash in the home folder of its worker, with all workers at
the same time, as the real one does it.
"""

import contextlib
import fcntl
import json
import os
import signal
import stat
import sys
import time
from pathlib import Path

WORKERS = {"v4-8": 1, "v4-16": 2, "v5litepod-8": 1, "v5litepod-16": 2}
DEVICES = "import jax; "  # of the command that counts devices; here there are none
# What the service and gcloud say, as people have reported it.
QUOTA = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.create) HttpError accessing <https://tpu...>: "
    "\"Quota limit 'TPUV6EPreemptiblePerProjectPerRegionForTPUAPI' has been exceeded. "
    'Limit: 0 in region us-east5."'
)
STOCKOUT = (
    'ERROR: (gcloud.compute.tpus.tpu-vm.create) {"code": 8, "message": "There is no more '
    'capacity in the zone \\"us-central1-c\\"; you can try in another zone where Cloud TPU Nodes '
    'are offered (see https://cloud.google.com/tpu/docs/regions) [EID: 0x9f48947a7d57c8d]"}'
)
NO_NETWORK = (
    "ERROR: gcloud crashed (ConnectionError): HTTPSConnectionPool(host='tpu.googleapis.com', "
    "port=443): Max retries exceeded with url: /v2/projects/p\n\nIf you would like to report this "
    "issue, please run the following command:\n  gcloud feedback\n\nTo check gcloud for common "
    "problems, please run the following command:\n  gcloud info --run-diagnostics"
)
DROP = "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [/usr/bin/ssh] exited with return code [255]."


class Cloud:
    """The folder, from the test's side and from that of the stand-in."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def set_up(self, vit_jax="fake"):
        """Writes the executables; `vit_jax` is "fake" or "real"."""
        here = Path(__file__).resolve()
        (self.folder / "bin").mkdir(parents=True)
        (self.folder / "bucket").mkdir()
        self._write({"nodes": {}, "queue": {}, "plays": []})
        load = f"import sys; sys.path.insert(0, '{here.parent}'); import standin"
        self._script("gcloud", f"#!{sys.executable} -SE\n{load}; standin.main()\n")
        self._script("uv", _UV.format(command=f'{sys.executable} -E -c "{load}; standin.venv()"'))
        real = (
            f"#!{sys.executable}\nimport sys\nfrom vit_jax.cli.main import main\nsys.exit(main())\n"
        )
        fake = f"#!{sys.executable} -SE\n{(here.parent / 'fake_vit_jax.py').read_text()}"
        self._script("vit-jax", real if vit_jax == "real" else fake)
        return self

    def _script(self, name, text):
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def _read(self):
        return json.loads((self.folder / "cloud.json").read_text())

    def _write(self, content):
        """At every moment the old content or the new one: others read without the lock."""
        temporary = self.folder / "cloud.json.tmp"
        temporary.write_text(json.dumps(content))
        os.replace(temporary, self.folder / "cloud.json")

    @contextlib.contextmanager
    def change(self):
        """What there is; changes are kept."""
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self._read()
            yield content
            self._write(content)

    @property
    def calls(self):
        path = self.folder / "calls.jsonl"
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    def verbs(self):
        """Such as ["tpu-vm create"], without the questions."""
        found = []
        for call in self.calls:
            words = [word for word in call if not word.startswith("-")]
            words = words[1:] if words[0] == "alpha" else words
            if words[3] != "describe":
                found.append(" ".join(words[2:4]))
        return found

    def play(self, when, **what):
        """Something that happens to a call that contains `when`, once.

        stderr, code: it fails so. after: it happens to the call after so many. preempt: in the
        middle, when so many steps are done. again: gcloud sends it twice. touch: a file is made
        in the bucket. hang: it takes so many seconds, with nothing done.
        """
        with self.change() as content:
            content["plays"].append({"when": when, "after": 0, **what})

    def node(self, name, accelerator_type="v4-8", state="READY", queue=None, spot=False):
        """Puts a node there."""
        with self.change() as content:
            made = make_node(content, name, accelerator_type, queue)
            made["state"] = state
            made["more"] = {"schedulingConfig": {"spot": True} if spot else {}}
        for worker in range(WORKERS[accelerator_type]):
            self.home(name, worker).mkdir(parents=True)

    def home(self, name, worker=0):
        """The home folder of a worker."""
        incarnation = self._read()["nodes"][name]["incarnation"]
        return self.folder / "vms" / name / str(incarnation) / str(worker)

    def preempt(self, name):
        """The VMs are gone, as is all that was on them."""
        with self.change() as content:
            node = content["nodes"][name]
            node["state"] = "PREEMPTED"
            if node["queue"]:
                content["queue"][node["queue"]]["states"] = ["SUSPENDING", "SUSPENDED"]
        self.erase(name)

    def erase(self, name):
        """Kills what runs on the VMs of a node, and removes their disks."""
        import shutil  # slow, as are some others: most calls do without

        vms = self.folder / "vms" / name
        kill_all_in(vms)
        shutil.rmtree(vms, ignore_errors=True)

    def steps(self, workers=1):
        """The step that so many workers have all saved, or that of a run's newest checkpoint."""
        counted = [int(path.read_text()) for path in self.folder.glob("bucket/*/step-?")]
        saved = self.folder.glob("bucket/*/checkpoints/*")
        saved = [int(path.name) for path in saved if path.name.isdigit()]
        return max(saved, default=min(counted) if len(counted) >= workers else 0)


_UV = """#!/bin/bash
# uv venv ... FOLDER, uv pip install ... REQUIREMENT
echo "$PWD $*" >> "$STANDIN/uv.txt"
if [ "$1" = venv ]; then
  {command}
else
  cp "$STANDIN/bin/vit-jax" venv/bin/vit-jax
fi
"""


def venv():
    """A virtual environment in the working folder, with the packages of this one."""
    import sysconfig

    base = Path(os.path.realpath(sys.executable))
    packages = Path(sysconfig.get_paths()["purelib"])
    target = Path("venv") / packages.relative_to(sys.prefix)
    target.parent.mkdir(parents=True)
    target.symlink_to(packages)
    Path("venv/bin").mkdir()
    Path("venv/bin/python").symlink_to(base)
    Path("venv/pyvenv.cfg").write_text(f"home = {base.parent}\n")


def kill_all_in(folder):
    """SIGKILL for every process whose home folder is there or below, for all at once."""
    mark = f"HOME={folder}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                variables = (process / "environ").read_bytes().split(b"\0")
                if any(x == mark or x.startswith(mark + b"/") for x in variables):
                    found.append(int(process.name))
    for wish in (signal.SIGSTOP, signal.SIGKILL):  # none sees another one end
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, wish)


def make_node(content, name, accelerator_type, queue):
    count = content.setdefault("incarnations", 0) + 1
    content["incarnations"] = count
    content["nodes"][name] = {
        "accelerator_type": accelerator_type,
        "state": "READY",
        "queue": queue,
        "incarnation": count,
    }
    return content["nodes"][name]


def fail(text, code=1):
    print(text, file=sys.stderr)
    sys.exit(code)


def main():
    """`gcloud`."""
    arguments = sys.argv[1:]
    cloud = Cloud(os.environ["STANDIN"])
    with open(cloud.folder / "calls.jsonl", "a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    play = next_play(cloud, " ".join(arguments))
    if "touch" in play:
        (cloud.folder / "bucket" / play["touch"]).touch()
    time.sleep(play.get("hang", 0))
    if "code" in play:
        fail(play["stderr"], play["code"])
    words = [word for word in arguments if not word.startswith("-") and word != "alpha"]
    flags = dict(word[2:].partition("=")[::2] for word in arguments if word.startswith("--"))
    _, _, group, verb, *names = words
    if group == "queued-resources":
        {"create": queue_create, "describe": queue_describe, "delete": queue_delete}[verb](
            cloud, names[0], flags
        )
    elif verb == "ssh":
        ssh(cloud, names[0], flags, play)
    elif verb == "scp":
        scp(cloud, *names)
    else:
        {"create": create, "describe": describe, "delete": delete}[verb](cloud, names[0], flags)


def next_play(cloud, call):
    with cloud.change() as content:
        for play in content["plays"]:
            if play["when"] in call:
                if play["after"] == 0:
                    content["plays"].remove(play)
                    return play
                play["after"] -= 1
    return {}


def create(cloud, name, flags):
    with cloud.change() as content:
        if name in content["nodes"]:
            fail("ERROR: (gcloud.compute.tpus.tpu-vm.create) ALREADY_EXISTS: it already exists")
    cloud.node(name, flags["accelerator-type"], spot="spot" in flags)
    print("Created tpu", name)


def describe(cloud, name, flags):
    node = cloud._read()["nodes"].get(name)
    if node is None:
        fail(f"ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: '{name}' was not found")
    endpoints = [{"ipAddress": "10.0.0.1"}] * WORKERS[node["accelerator_type"]]
    shown = {"state": node["state"], "networkEndpoints": endpoints}
    if node["queue"]:
        shown["queuedResource"] = f"projects/p/locations/z/queuedResources/{node['queue']}"
    print(
        json.dumps({**shown, "acceleratorType": node["accelerator_type"], **node.get("more", {})})
    )


def delete(cloud, name, flags):
    with cloud.change() as content:
        if name not in content["nodes"]:
            fail("ERROR: (gcloud.compute.tpus.tpu-vm.delete) NOT_FOUND")
        if content["nodes"][name]["queue"]:
            fail("ERROR: (gcloud.compute.tpus.tpu-vm.delete) it belongs to a queued resource")
        del content["nodes"][name]
    cloud.erase(name)


def queue_create(cloud, name, flags):
    with cloud.change() as content:
        if name in content["queue"]:
            fail("ERROR: (gcloud.compute.tpus.queued-resources.create) ALREADY_EXISTS")
        content["queue"][name] = {
            "states": content.get(
                "queue_plays", ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
            ),
            "accelerator_type": flags["accelerator-type"],
            "node": flags["node-id"],
            "spot": "spot" in flags,
        }


def queue_describe(cloud, name, flags):
    """Each look shows the next state."""
    with cloud.change() as content:
        request = content["queue"].get(name)
        if request is None:
            fail("ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: not found")
        state, *after = request["states"]
        request["states"] = after or [state]
    if state == "ACTIVE" and request["node"] not in cloud._read()["nodes"]:
        cloud.node(request["node"], request["accelerator_type"], queue=name)
    shown = {"state": state}
    if state == "FAILED":
        shown["failedData"] = {"error": {"message": "the time to wait is over"}}
    nodes = [{"nodeId": node} for node in request.get("nodes", [request["node"]])]
    asked = {"spot": {}} if request.get("spot") else {}  # its nodes do not repeat it here
    print(json.dumps({"state": shown, "tpu": {"nodeSpec": nodes}, **asked}))


def queue_delete(cloud, name, flags):
    with cloud.change() as content:
        if name not in content["queue"]:
            fail("ERROR: (gcloud.compute.tpus.queued-resources.delete) NOT_FOUND")
        node = content["queue"].pop(name)["node"]
        if node in content["nodes"] and "force" not in flags:
            fail("ERROR: (gcloud.compute.tpus.queued-resources.delete) it has nodes")
        content["nodes"].pop(node, None)
    cloud.erase(node)


def ready(cloud, name):
    node = cloud._read()["nodes"].get(name)
    if node is None:
        fail("ERROR: (gcloud.compute.tpus.tpu-vm.ssh) NOT_FOUND: not found")
    if node["state"] != "READY":
        fail(
            "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) This TPU has terminal state "
            f'"{node["state"]}", so it cannot be used anymore.'
        )
    return range(WORKERS[node["accelerator_type"]])


def scp(cloud, source, target):
    name, _, path = target.partition(":")
    for worker in ready(cloud, name):
        file = cloud.home(name, worker) / path
        if not file.parent.is_dir():
            fail(f"scp: dest open {path}: No such file or directory", 1)
        file.write_bytes(Path(source).read_bytes())


def ssh(cloud, name, flags, play):
    workers = ready(cloud, name)
    chosen = workers if flags["worker"] == "all" else [int(flags["worker"])]
    print("Using ssh batch size of 1.", file=sys.stderr)
    for _ in range(2 if play.get("again") else 1):
        processes = [start(cloud, name, worker, flags["command"]) for worker in chosen]
        if "preempt" in play:
            while cloud.steps(len(workers)) < play["preempt"]:
                time.sleep(0.02)
            cloud.preempt(name)
            fail(DROP, 255)
        codes = [process.wait() for process in processes]
        if min(codes) < 0:  # killed with its machine
            fail(DROP, 255)
    for worker, code in zip(chosen, codes):
        if code:
            status = f"##### Command execution on worker {worker} failed with exit status {code}."
            fail(f"{status} Continuing.", code)


def start(cloud, name, worker, command):
    import subprocess

    home = cloud.home(name, worker)
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{cloud.folder}/bin:/usr/bin:/bin",
        "TPU_WORKER_ID": str(worker),
    }
    if DEVICES in command and "STANDIN_REAL_JAX" not in environment:
        command = "echo devices 8 4 tpu TPU v4"
    print(f"SSH: Attempting to connect to worker {worker}...", file=sys.stderr, flush=True)
    return subprocess.Popen(["bash", "-c", command], cwd=home, env=environment)
