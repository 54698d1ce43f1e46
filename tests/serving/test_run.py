"""What is said of bad arguments, before anything is compiled."""

import asyncio
import builtins
import socket

import pytest

import vit_jax
from tests.inference import tiny
from vit_jax.convert import folder
from vit_jax.errors import UserError
from vit_jax.serving.run import _names, _url, listen


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "swin"
    swin = tiny.drawn("swin_tiny_patch4_window7_224", **tiny.SWIN, num_classes=0)
    folder.save(place, swin)
    return place


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--host", "nowhere.invalid"], "host 'nowhere.invalid' is no name or address"),
        (["--host", "192.0.2.1"], "host '192.0.2.1' is no address of this machine"),
        (["--host", ""], "the host is empty"),
        (["--port", "65536"], "port is 65536; expected a whole number, 0 to 65535"),
        (["--port", "-1"], "port is -1"),
        (["--top-k", "0"], "top_k is 0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--max-upload-mb", "0"], "max_upload_mb is 0"),
        (["--max-upload-mb", "nan"], "max_upload_mb is nan"),
        (["--max-pixels", "1000000000"], "max_pixels is 1000000000"),
        (["--port", "0"], "there is nothing to show"),
        (["--prot", "0"], "unknown argument '--prot'"),
    ],
)
def test_one_line_and_exit_code_2(call, model, arguments, words):
    code, out, errors = call("serve", model, *arguments)
    assert (code, out) == (2, "") and words in errors, errors
    assert len(errors.splitlines()) == 1 and errors.startswith("vit-jax: error: ")


def test_a_port_in_use(call, model):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, errors = call("serve", model, "--port", port)
    assert (code, out) == (2, "") and len(errors.splitlines()) == 1
    assert f"port {port} of 127.0.0.1 is in use by another program" in errors


def test_a_missing_model(call, tmp_path):
    code, out, errors = call("serve", tmp_path / "none", "--port", 0)
    assert (code, out) == (2, "") and "does not exist" in errors


def test_a_missing_framework(call, model, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "uvicorn":
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, errors = call("serve", model)
    assert code == 2 and 'pip install "vit_jax[serve]"' in errors


def test_in_a_notebook(model):
    async def cell():
        vit_jax.serve(model, port=0)

    with pytest.raises(UserError, match=r"event loop runs here already.*from a thread"):
        asyncio.run(cell())


def test_names_of_a_server_that_only_this_machine_reaches():
    with listen("localhost", 0) as listening:
        names = _names("localhost", listening)
        assert {"localhost", "127.0.0.1", "[::1]"} <= set(names)
        assert _url(listening).removeprefix("http://").rsplit(":", 1)[0] in names
    with listen("127.0.0.2", 0) as listening:
        assert "127.0.0.2" in _names("127.0.0.2", listening)


def test_any_name_where_others_reach_it():
    with listen("0.0.0.0", 0) as listening:
        assert _names("0.0.0.0", listening) is None
        assert _url(listening) == f"http://0.0.0.0:{listening.getsockname()[1]}"
