"""Tables whose rows are reports of `vit-jax compile`, each made in a process of its own."""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vit_jax.measure import machine

ROOT = pathlib.Path(__file__).parents[1]
HEADER = (
    "| train step | parameters | batch | memory a chip | TFLOPs a chip (over the model's) | "
    "sent a chip | at best | of peak | compiled in |\n|" + "---|" * 9
)
Row = dict[str, Any]


def options(description: str) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with it, made anew")
    parser.add_argument("--markdown", action="store_true", help="print what there is")
    return parser.parse_args()


def read(path: pathlib.Path) -> dict[str, Row]:
    """The rows that were written, by name."""
    return json.loads(path.read_text())["rows"] if path.exists() else {}


def make(
    path: pathlib.Path,
    what: str,
    jobs: Iterable[tuple[str, list[str], Row]],
    only: str = "",
    stale: Callable[[str, Row], bool] = lambda name, row: False,
) -> dict[str, Row]:
    """Makes the rows that are missing or stale, and writes each when it is done.

    Args:
      path: of the results.
      what: they are, in words.
      jobs: of each row in order its name, what `vit-jax compile` is given, and what else is kept.
      only: where it is given, the rows whose name has it are made, whether there or not.
      stale: whether a row is to be made anew.
    """
    rows, jobs = read(path), list(jobs)
    for name, arguments, more in jobs:
        if only not in name or (name in rows and not only and not stale(name, rows[name])):
            continue
        print(f"{name} ...", end=" ", flush=True)
        rows[name] = compiled(arguments) | more
        print(f"{rows[name].get('compile_seconds', 0):.0f} s", flush=True)
        _write(path, what, {name: rows[name] for name, _, _ in jobs if name in rows})
    return rows


def compiled(arguments: list[str]) -> Row:
    """One row: the report, or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "report.json"
        command = [sys.executable, "-m", "vit_jax.cli.main", "compile", *arguments]
        done = subprocess.run(
            [*command, "--json", str(path)], cwd=ROOT, capture_output=True, text=True
        )
        if path.exists():
            return json.loads(path.read_text())
    return {"error": done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]}


def _write(path: pathlib.Path, what: str, rows: Mapping[str, Row]) -> None:
    """Writes the rows that there are, and the machine that compiled the last."""
    libraries = ["jax", "jaxlib", "libtpu", "flax"]
    report = {"what": what, "machine": machine.describe(libraries), "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def line(name: str, row: Row) -> str:
    """A row of the table in markdown."""
    if "error" in row:
        return f"| {name} | {row['error'][0][:120]} |"
    capacity = row["capacity"] / 2**30
    cells = [
        name,
        f"{row['parameters'] / 1e6:,.0f} M",
        f"{row['batch']:,}",
        f"{row['needed'] / 2**30:.1f} of {capacity:.1f} GiB"
        + ("" if row["fits"] else ": too large"),
    ]
    if row["fits"]:
        roof = row["roofline"]
        between = sum(x["bytes"] for x in (row.get("between_slices") or {}).values())
        to_slices = f", {between / 1e9:.2f} GB to slices" if between else ""
        cells += [
            f"{row['flops'] / 1e12:.1f} ({row['flops'] / row['model_flops']:.2f})",
            f"{row['sent'] / 1e9:.2f} GB{to_slices}",
            f"{1000 * roof['seconds']:.0f} ms ({roof['bound']})",
            f"{100 * roof['share']:.0f} %",
        ]
    else:
        cells += ["", "", "", ""]
    return "| " + " | ".join([*cells, f"{row['compile_seconds']:.0f} s"]) + " |"
