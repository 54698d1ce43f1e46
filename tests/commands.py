"""Calls `vit-jax` in the process of the tests."""

import sys

import pytest

from vit_jax.cli import main as cli


def called(arguments, capture):
    """Exit code, output and errors of `vit-jax ARGUMENTS`, as `capsys` or `capfd` sees them."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capture.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls `vit-jax ARGUMENTS` in this process; returns exit code, output and errors."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restored at the end
    return lambda *arguments: called(arguments, capsys)
