"""Tables of compiled train steps: which rows are made, in which order, and what is written."""

import importlib
import json
import re

import pytest

from tests.docs import markdown
from vit_jax.ahead.report import ANALYSIS

SECOND, THIRD = "vit_l on one", "vit_h on one"


@pytest.fixture(scope="module")
def compile_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(markdown.ROOT / "benchmarks"))
        yield importlib.import_module("compile_rows")


@pytest.fixture
def table(compile_rows, tmp_path, monkeypatch):
    """Three rows of a table of their own, on a page of its own; what compiles says who is made."""
    jobs = [
        compile_rows.Job("vit_b on one", "vit_b16_i1k", ("mesh.data=4",)),
        compile_rows.Job(SECOND, "vit_b16_i1k", ("mesh.data=8",)),
        compile_rows.Job(THIRD, "vit_b16_i1k", ("mesh.data=16",), ("--num-classes", "7")),
    ]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- made: rows -->\nold\n<!-- end: rows -->\nafter\n")
    monkeypatch.setattr(compile_rows, "PAGE", page)
    sections = {"rows": lambda rows: " ".join(rows), "other": lambda rows: None}
    page.write_text(page.read_text() + "<!-- made: other -->\nkept\n<!-- end: other -->\n")
    return compile_rows.Table(tmp_path / "results.json", "rows", jobs, sections)


@pytest.fixture
def run(compile_rows, table, monkeypatch):
    """Runs the command with some options; returns the names of the rows that were made."""
    seconds = {"vit_b on one": 30, SECOND: 10, THIRD: 20}
    made = []

    def compiled(job):
        made.append(job.name)
        if job.name == stop:
            raise KeyboardInterrupt
        return {"compile_seconds": seconds[job.name], **job.made_of}

    stop = None
    monkeypatch.setattr(compile_rows, "compiled", compiled)

    def run(*options, stop_at=None):
        nonlocal stop
        stop = stop_at
        made.clear()
        monkeypatch.setattr("sys.argv", ["table.py", *options])
        try:
            run.code = compile_rows.main("A table.", table)
        except KeyboardInterrupt:
            assert stop is not None
        return list(made)

    return run


def change(table, name, **values):
    results = json.loads(table.results.read_text())
    results["rows"][name].update(values)
    table.results.write_text(json.dumps(results))


def test_a_run_that_was_stopped_goes_on(run, table, compile_rows):
    assert run(stop_at=SECOND) == ["vit_b on one", SECOND]
    assert list(compile_rows.read(table.results)) == ["vit_b on one"]
    assert run() == [SECOND, THIRD]
    assert run() == []


def test_the_cheapest_rows_come_first(run):
    run()
    assert run("--anew") == [SECOND, THIRD, "vit_b on one"]
    assert run("--anew", "--only", "vit_b") == ["vit_b on one"]


@pytest.mark.parametrize(
    "key, value",
    [
        ("settings", {"mesh.data": 8}),
        ("options", ["--num-classes", "8"]),
        ("analysis", ANALYSIS - 1),
        ("analysis", None),
        ("error", ["it failed"]),
    ],
)
def test_rows_of_something_else_are_made_anew(run, table, capsys, key, value):
    run()
    change(table, THIRD, **{key: value})
    capsys.readouterr()
    assert run("--stale") == [] and run.code == 1
    reason = "failed" if key == "error" else f"of another {key}"
    assert capsys.readouterr().out == f"{THIRD}: {reason}\n"
    assert run("--only", "vit_b") == []
    assert run() == [THIRD]
    assert run("--stale") == [] and run.code == 0


def test_the_page_has_the_rows(run, table, compile_rows):
    run(stop_at=THIRD)
    text = compile_rows.PAGE.read_text()
    start = f"<!-- made: rows -->\n\nvit_b on one {SECOND}\n\n<!-- end: rows -->"
    assert text.startswith(f"before\n{start}\nafter\n") and "\nkept\n" in text
    run("--markdown")
    assert compile_rows.PAGE.read_text() == text


def test_progress_says_how_far_it_is_and_how_long_it_took(run, capsys):
    run()
    capsys.readouterr()
    run("--anew")
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"\[1/3\] {SECOND} \(10 s when it was last made\) \.\.\. 0 s ", said[0])
