"""Time and memory to bring weights in, beside what PyTorch needs to load the same file.

    python benchmarks/convert.py --models vit_large_patch16_224 vit_huge_patch14_224

Random float32 weights of each model are written in three layouts: Transformers' safetensors, timm's
`.pth` and AugReg's `.npz`. Every measurement is a process of its own, which imports its libraries
and then does one job, the file being in the page cache:

- convert: `vit_jax.convert.convert.convert`, what `vit-jax convert` calls, to a checkpoint on disk.
- from_pretrained: `vit_jax.from_pretrained`, to JAX arrays.
- PyTorch, model: `from_pretrained` of Transformers, or timm's `create_model` and `load_state_dict`
  of `torch.load`, or timm's `load_pretrained`.
- PyTorch, file: `safetensors.torch.load_file` or `torch.load` alone, into tensors.

PyTorch's jobs look at each weight once at the end, since some of them only map the file.

Seconds and processor seconds (all threads together) are of the job without the imports, the median
over the rounds; rounds alternate between the jobs. Memory is the largest seen in any round, sampled
every two milliseconds, imports included: anonymous memory (RssAnon of /proc, what must stay in
memory) and all of it (VmHWM, with pages of the mapped file that the system can drop).
"""

import argparse
import contextlib
import importlib
import itertools
import multiprocessing
import os
import pathlib
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from report import write as write_report

RESULTS = pathlib.Path(__file__).parent / "results/convert.json"
MODELS = ("vit_large_patch16_224", "vit_huge_patch14_224")
LAYOUTS = ("transformers .safetensors", "timm .pth", "AugReg .npz")
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "orbax-checkpoint", "safetensors", "torch", "timm")
SAMPLING = 0.002  # seconds
LONGEST_GAP = 0.5  # seconds without a sample after which a measurement is repeated


class Job(NamedTuple):
    """What a process does: the libraries it imports first, and the call that is measured."""

    imports: tuple[str, ...]
    run: Callable[[str, str, pathlib.Path, pathlib.Path], Any]


def convert(name: str, layout: str, source: pathlib.Path, output: pathlib.Path) -> None:
    """Writes a checkpoint on disk."""
    from vit_jax.convert.convert import convert

    convert(output, source, lambda text: None, **_named(name, layout))


def from_pretrained(name: str, layout: str, source: pathlib.Path, output: pathlib.Path) -> Any:
    """Loads into JAX arrays."""
    import jax

    from vit_jax.convert.pretrained import from_pretrained

    _, variables = from_pretrained(source, **_named(name, layout))
    return jax.block_until_ready(variables)


def _named(name: str, layout: str) -> dict[str, str]:
    """The options of loading: timm's `.pth` does not say which model it is of."""
    return {"model": name} if layout == "timm .pth" else {}


def torch_model(name: str, layout: str, source: pathlib.Path, output: pathlib.Path) -> Any:
    """Loads into a PyTorch model."""
    import timm
    import torch
    import transformers

    if layout == "transformers .safetensors":
        model = transformers.ViTForImageClassification.from_pretrained(source)
        return model, touched(model.state_dict())
    model = timm.create_model(name, num_classes=1000)  # as written; some names have no head
    if layout == "timm .pth":
        model.load_state_dict(torch.load(source, map_location="cpu", weights_only=True))
    else:
        model.load_pretrained(str(source))
    return model, touched(model.state_dict())


def torch_file(name: str, layout: str, source: pathlib.Path, output: pathlib.Path) -> Any:
    """Loads into PyTorch tensors."""
    import safetensors.torch
    import torch

    if layout == "timm .pth":
        return touched(torch.load(source, map_location="cpu", weights_only=True))
    return touched(safetensors.torch.load_file(source / "model.safetensors"))


def touched(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors, each looked at once: what is only mapped is then read."""
    for tensor in tensors.values():
        tensor.max()
    return tensors


OURS = ("jax", "vit_jax.convert.convert", "vit_jax.convert.pretrained", "orbax.checkpoint")
THEIRS = ("torch", "timm", "transformers")
JOBS = {
    "convert": Job(OURS, convert),
    "from_pretrained": Job(OURS, from_pretrained),
    "PyTorch, model": Job(THEIRS, torch_model),
    "PyTorch, file": Job(("torch", "safetensors.torch"), torch_file),
}


def serve(job: str, name: str, layout: str, source: pathlib.Path, pipe: Any) -> None:
    """A process: imports, says so, and when it is told to, does the job once."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "timm" in JOBS[job].imports:
        from vit_jax.convert.torch_libraries import import_library

        import_library("timm", "the benchmark")
    for library in JOBS[job].imports:
        importlib.import_module(library)
    if layout == "timm .pth":
        importlib.import_module("torch")  # what reads such a file
    pipe.send("ready")
    pipe.recv()
    output = source.parent / "converted"
    wall, used = time.perf_counter(), time.process_time()
    kept = JOBS[job].run(name, layout, source, output)
    pipe.send((time.perf_counter() - wall, time.process_time() - used))
    pipe.recv()
    del kept
    shutil.rmtree(output, ignore_errors=True)
    os._exit(0)


def measure(job: str, name: str, layout: str, source: pathlib.Path) -> dict[str, float]:
    """One job in a process of its own: seconds, and bytes at their highest."""
    into_page_cache(source)
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(job, name, layout, source, theirs), daemon=True
    )
    process.start()
    theirs.close()  # so that the end of the process is noticed
    ours.recv()
    before = memory(process.pid)["RssAnon"]
    with sampled(process.pid) as samples:
        ours.send("go")
        wall, used = ours.recv()
        highest = memory(process.pid)["VmHWM"]
    ours.send("end")
    process.join()
    times, anonymous = zip(*samples)
    gap = max(after - before for before, after in itertools.pairwise(times))
    if gap > LONGEST_GAP:
        print(f"{job}: nothing was sampled for {gap:.1f} s; measured again", flush=True)
        return measure(job, name, layout, source)
    return {
        "seconds": wall,
        "cpu_seconds": used,
        "anonymous": max(anonymous),
        "anonymous_before": before,
        "resident": highest,
    }


@contextlib.contextmanager
def sampled(pid: int) -> Iterator[list[tuple[float, int]]]:
    """Meanwhile the time and the anonymous memory of a process are appended to a list."""
    done = threading.Event()
    values: list[tuple[float, int]] = []

    def sample() -> None:
        while not done.wait(SAMPLING):
            with contextlib.suppress(OSError, KeyError):  # it ended
                values.append((time.perf_counter(), memory(pid)["RssAnon"]))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield values
    finally:
        done.set()
        thread.join()


def memory(pid: int) -> dict[str, int]:
    """The sizes in /proc/PID/status, in bytes."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs}


def into_page_cache(source: pathlib.Path) -> None:
    """Reads a file, or all files of a folder."""
    for path in [source] if source.is_file() else source.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def write(name: str, layout: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes random weights; returns the file, or the folder, that is the source."""
    import numpy as np

    import vit_jax
    from vit_jax.convert import mapping, params, writers
    from vit_jax.convert.export import choose_layout, export
    from vit_jax.convert.folder import Model

    act_layer = "gelu_tanh" if layout == "AugReg .npz" else "gelu"
    module = vit_jax.create_model(name, act_layer=act_layer)
    tree, rng = params.allocate(module, np.float32), np.random.default_rng(0)
    leaves = params.by_path(tree)
    for leaf in leaves.values():
        leaf[...] = 0.02 * rng.standard_normal(leaf.shape, np.float32)
    model = Model(module, tree, vit_jax.preprocessing(name))
    if layout == "timm .pth":
        _, table, _ = choose_layout(model, "timm")
        writers.write_torch(folder / "timm.pth", mapping.outward(leaves, table))
        return folder / "timm.pth"
    if layout == "AugReg .npz":
        export(model, folder / "augreg", "npz")
        return folder / "augreg/model.npz"
    export(model, folder / "transformers", "transformers")
    return folder / "transformers"


def write_apart(name: str, layout: str, folder: pathlib.Path) -> pathlib.Path:
    """`write` in a process whose memory is free again afterwards."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(write, (name, layout, folder))


def compare(name: str, layout: str, rounds: int, temporary: str | None) -> dict[str, Any]:
    """All jobs on one file."""
    with tempfile.TemporaryDirectory(dir=temporary) as folder:
        source = write_apart(name, layout, pathlib.Path(folder))
        files = [source] if source.is_file() else list(source.iterdir())
        size = sum(path.stat().st_size for path in files)
        jobs = [job for job in JOBS if not (job == "PyTorch, file" and layout == "AugReg .npz")]
        found: dict[str, list[dict[str, float]]] = {job: [] for job in jobs}
        for _ in range(rounds):
            for job in jobs:
                found[job].append(measure(job, name, layout, source))
    print(f"\n{name}, {layout}: {size / 1e9:.2f} GB")
    print(f"{'':18}{'s':>8}{'CPU s':>8}{'anonymous':>12}{'/ size':>8}{'resident':>12}")
    rows = {job: summary(values, size) for job, values in found.items()}
    for job, row in rows.items():
        print(
            f"{job:18}{row['seconds']:8.2f}{row['cpu_seconds']:8.2f}"
            f"{row['peak_anonymous_bytes'] / 1e9:9.2f} GB{row['anonymous_over_file']:8.2f}"
            f"{row['peak_resident_bytes'] / 1e9:9.2f} GB",
            flush=True,
        )
    return {"model": name, "layout": layout, "file_bytes": size, "jobs": rows}


def summary(rounds: list[dict[str, float]], size: int) -> dict[str, float]:
    """What is reported of one job."""
    highest = max(one["anonymous"] for one in rounds)
    return {
        "seconds": round(statistics.median(one["seconds"] for one in rounds), 2),
        "lowest_seconds": round(min(one["seconds"] for one in rounds), 2),
        "highest_seconds": round(max(one["seconds"] for one in rounds), 2),
        "cpu_seconds": round(statistics.median(one["cpu_seconds"] for one in rounds), 2),
        "peak_anonymous_bytes": round(highest),
        "anonymous_over_file": round(highest / size, 2),
        "anonymous_after_imports_bytes": round(max(one["anonymous_before"] for one in rounds)),
        "peak_resident_bytes": round(max(one["resident"] for one in rounds)),
    }


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="registered names")
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS, choices=LAYOUTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--temporary", help="folder for the files, three times the largest model")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    results = [
        compare(name, layout, args.rounds, args.temporary)
        for name in args.models
        for layout in args.layouts
    ]
    what = "bringing weights in: seconds, and bytes at their highest"
    libraries = (*LIBRARIES, "transformers")
    write_report(args.output, what, results, libraries, devices=False, rounds=args.rounds)


if __name__ == "__main__":
    main()
