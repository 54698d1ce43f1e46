"""Tables whose rows are reports of `vit-jax compile`, each made in a process of its own.

A row keeps what it was made of: the settings of the recipe that shape the program, what the command
was given besides, and the version of the analysis that counted. It is stale where one of these is
another now; rows that are missing or stale are made, the cheapest first, and each is written when
it is done, into the results and into docs/compile.md. A run that was stopped goes on where it was.
"""

import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vit_jax.ahead.report import ANALYSIS
from vit_jax.measure import machine
from vit_jax.training.config import base_config, load_config
from vit_jax.training.overrides import flat_keys, value_of

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs/compile.md"
EARLIER = (
    "A dash stands where a row is of an earlier version of the analysis, which counted too many "
    "bytes, and of the step as it was then."
)
HEADER = (
    "| train step | parameters | batch | memory a chip | TFLOPs a chip (over the model's) | "
    "sent a chip | at best | of peak | compiled in |\n|" + "---|" * 9
)
# Keys, and sections with all their keys, that shape the program or the data that it is given.
SHAPING = (
    *("model", "objective", "optim", "lora", "schedule.name", "ema_decay", "accumulate_steps"),
    *("mesh", "sharding_rules", "tpu_topology"),
    *("data.source", "data.batch_size", "data.train_transform"),
)
Row = dict[str, Any]


class Job(NamedTuple):
    """A row to be made.

    Attributes:
      name: of the row.
      recipe: its name.
      changes: of the recipe, KEY=VALUE.
      options: of `vit-jax compile`, besides.
      printed: whether what the command prints is kept too.
    """

    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    printed: bool = False

    @property
    def made_of(self) -> Row:
        """What the row keeps of this, as JSON keeps it."""
        config = load_config(ROOT / f"configs/{self.recipe}.py", self.changes)
        return {"analysis": ANALYSIS, "settings": settings(config), "options": list(self.options)}

    @property
    def arguments(self) -> list[str]:
        """What `vit-jax compile` is given."""
        changes = [f"--config.{change}" for change in self.changes]
        return ["--config", f"configs/{self.recipe}.py", *changes, *self.options]


class Table(NamedTuple):
    """Rows that belong together.

    Attributes:
      results: the file with all that is known of them.
      what: they are, in words.
      jobs: one of each row.
      sections: for each part of the page that is made of the rows, its name and what makes it;
        `None`: the rows that there are do not suffice, and it stays as it is.
    """

    results: pathlib.Path
    what: str
    jobs: Sequence[Job]
    sections: Mapping[str, Callable[[dict[str, Row]], str | None]]


def settings(config: ConfigDict) -> Row:
    """What shapes a recipe's program and is not the default, as JSON keeps it."""
    base = base_config()
    defaults = {key: value_of(base, key) for key in flat_keys(base)}
    found = {
        key: value_of(config, key)
        for key in flat_keys(config)
        if any(f"{key}.".startswith(f"{name}.") for name in SHAPING)
    }
    differing = {
        key: value for key, value in found.items() if key not in defaults or defaults[key] != value
    }
    return json.loads(json.dumps(differing))


def why_stale(job: Job, row: Row | None) -> str | None:
    """Why a row has to be made, in words; None: it is as it would be made now."""
    if row is None:
        return "missing"
    if "error" in row:
        return "failed"
    for key, value in job.made_of.items():
        if row.get(key) != value:
            return f"of another {key}"
    if job.printed and "printed" not in row:
        return "without what is printed"
    return None


def read(path: pathlib.Path) -> dict[str, Row]:
    """The rows that were written, by name."""
    return json.loads(path.read_text())["rows"] if path.exists() else {}


def main(description: str, table: Table) -> int:
    """Makes the rows that are asked for, or says which are stale; returns the exit code."""
    args = _options(description)
    rows = read(table.results)
    stale = {job.name: why_stale(job, rows.get(job.name)) for job in table.jobs}
    wanted = [job for job in table.jobs if args.only in job.name and (args.anew or stale[job.name])]
    wanted.sort(key=lambda job: rows.get(job.name, {}).get("compile_seconds", math.inf))
    if args.stale:
        print("\n".join(f"{job.name}: {stale[job.name] or 'made anew'}" for job in wanted))
        return 1 if wanted else 0
    if not args.markdown:
        make(table, wanted, rows)
    PAGE.write_text(page(PAGE.read_text(), table, rows))
    return 0


def _options(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose name has it")
    parser.add_argument("--anew", action="store_true", help="also rows that are not stale")
    parser.add_argument("--stale", action="store_true", help="say which would be made; exit code 1")
    parser.add_argument("--markdown", action="store_true", help="only write the tables, anew")
    return parser.parse_args()


def make(table: Table, wanted: Sequence[Job], rows: dict[str, Row]) -> None:
    """Makes rows, and writes each when it is done.

    Args:
      table: that they are of.
      wanted: the rows to make, in order.
      rows: those that there are; the new ones come in.
    """
    for i, job in enumerate(wanted):
        before = rows.get(job.name, {}).get("compile_seconds")
        guess = "" if before is None else f" ({before:.0f} s when it was last made)"
        print(f"[{i + 1}/{len(wanted)}] {job.name}{guess} ...", end=" ", flush=True)
        start = time.perf_counter()
        rows[job.name] = compiled(job)
        said = rows[job.name].get("error", [""])[0]
        print(f"{time.perf_counter() - start:.0f} s {said}", flush=True)
        _write(table, rows)
        PAGE.write_text(page(PAGE.read_text(), table, rows))


def compiled(job: Job) -> Row:
    """One row: the report and what it was made of, or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "report.json"
        command = [sys.executable, "-m", "vit_jax.cli.main", "compile", *job.arguments]
        done = subprocess.run(
            [*command, "--json", str(path)], cwd=ROOT, capture_output=True, text=True
        )
        if path.exists():
            printed = {"printed": done.stdout} if job.printed else {}
            compiler = {"compiler": f"libtpu {metadata.version('libtpu')}"}
            return json.loads(path.read_text()) | job.made_of | compiler | printed
    return {"error": done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]}


def _write(table: Table, rows: Mapping[str, Row]) -> None:
    """Writes the rows that there are jobs of, and the machine that compiled the last."""
    libraries = ["jax", "jaxlib", "libtpu", "flax"]
    kept = {job.name: rows[job.name] for job in table.jobs if job.name in rows}
    report = {"what": table.what, "machine": machine.describe(libraries), "rows": kept}
    table.results.parent.mkdir(parents=True, exist_ok=True)
    table.results.write_text(json.dumps(report, indent=1) + "\n")


def page(text: str, table: Table, rows: dict[str, Row]) -> str:
    """The page with the sections of a table as its rows have them.

    A section stands between `<!-- made: NAME -->` and `<!-- end: NAME -->`.
    """
    for name, write in table.sections.items():
        marks = re.compile(rf"(<!-- made: {name} -->\n).*?(<!-- end: {name} -->)", re.S)
        if not marks.search(text):
            raise ValueError(f"{PAGE} has no section {name}")
        made = write(rows)
        if made is not None:
            text = marks.sub(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)
    return text


def lines(rows: Iterable[tuple[str, Row]]) -> str:
    """The table in markdown, of rows with what they are called there."""
    rows = list(rows)
    compilers = sorted({row["compiler"] for _, row in rows if "compiler" in row})
    below = ["", f"Compiled by {' and '.join(compilers)}."] if compilers else []
    if any(_is_earlier(row) for _, row in rows):
        below += ["", *textwrap.wrap(EARLIER, 100)]
    return "\n".join([HEADER, *(_line(name, row) for name, row in rows), *below])


def _is_earlier(row: Row) -> bool:
    """Whether bytes were counted otherwise than now, and with them the least time."""
    return bool(row.get("fits")) and row.get("analysis") != ANALYSIS


def _line(name: str, row: Row) -> str:
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
        ]
        least = (
            f"{1000 * roof['seconds']:.0f} ms ({roof['bound']})",
            f"{100 * roof['share']:.0f} %",
        )
        cells += ["-", "-"] if _is_earlier(row) else least
    else:
        cells += ["", "", "", ""]
    return "| " + " | ".join([*cells, f"{row['compile_seconds']:.0f} s"]) + " |"
