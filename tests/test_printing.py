"""Results for a terminal, for a file, and for a reader who stops early."""

import io
import itertools
import os

import numpy as np

from vit_jax import printing
from vit_jax.evaluation.confusion import Confusion
from vit_jax.evaluation.show import show

LONG = Confusion(np.array([[1, 9], [0, 5]]), ("a class of a long name, " * 5, "bell\a"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_cut_on_a_terminal_and_whole_in_a_file(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal, file = Terminal(), io.StringIO()
    show(LONG, False, terminal)
    show(LONG, False, file)
    cut, whole = (x.getvalue().splitlines() for x in (terminal, file))
    assert max(map(len, cut)) == 80 and cut[1].endswith("...")
    assert whole[1].endswith("a long name,  taken for bell?")
    assert len(cut) == len(whole) == 2


def test_json_is_whole_on_a_terminal_too(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    show(LONG, True, terminal)
    assert terminal.getvalue().endswith("}\n") and terminal.getvalue().count("\n") == 1


def test_a_reader_may_stop_reading():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="ascii") as output:
        for _ in range(2):
            printing.write("text", output)


def test_a_sentence_in_lines_has_all_its_words():
    sentence = " ".join(["word-with-hyphens", "x" * 100, *map(str, range(60))])
    lines = printing.wrapped(sentence)
    assert " ".join(lines) == sentence
    assert [len(line) for line in lines if len(line) > 80] == [100]
    # No line has room for the first word of the next one.
    for line, following in itertools.pairwise(lines):
        assert len(f"{line} {following.split()[0]}") > 80
