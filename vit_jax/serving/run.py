"""Opens the model and the port, and serves until it is told to stop."""

import asyncio
import copy
import errno
import ipaddress
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from PIL import Image

from vit_jax import ranges
from vit_jax.convert.folder import Model
from vit_jax.errors import UserError
from vit_jax.inference.predict import opened
from vit_jax.serving.asking import Asking
from vit_jax.serving.engine import Engine
from vit_jax.serving.limits import Limits
from vit_jax.training.signals import StopSignals

HOST = "127.0.0.1"
PORT = 8000
STOP_SECONDS = 10  # for requests in progress, when it is told to stop
WAITING = 128  # connections that the system holds for us
RANGES = {
    "port": ranges.Range(
        "a whole number, 0 to 65535", lambda x: ranges.whole(0).fits(x) and x <= 65535
    ),
    "top_k": ranges.whole(1),
    "batch_size": ranges.whole(1),
}
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def serve(
    source: Model | str | os.PathLike[str],
    host: str = HOST,
    port: int = PORT,
    *,
    top_k: int = 5,
    batch_size: int = 4,
    max_upload_mb: float = 20,
    max_pixels: int = 50_000_000,
    report: Callable[[str], None] = print,
    announce: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """Serves a page that shows what a model says of pictures, until SIGTERM or SIGINT.

        vit_jax.serve("runs/mine")  # and open http://127.0.0.1:8000

    Args:
        source: a model from `vit_jax.open_model`, or what that opens.
        host: name or address of this machine that is listened on. Only with another than the
            default can others reach it.
        port: 0 takes any that is free.
        top_k: classes of each picture.
        batch_size: pictures that are computed at once. Every batch costs as much as a full one.
        max_upload_mb: of a picture's file, in millions of bytes.
        max_pixels: of a picture, height times width.
        report: is given the sentences a user should read.
        announce: is given the address, when it is ready.
        **options: of `vit_jax.open_model`, where `source` is what that opens.

    Raises:
        UserError: a number out of range; the address or port cannot be had; a model with neither
            classes nor attention; Starlette or uvicorn is not installed; an event loop runs here
            already, as in a notebook; see `open_model`.
    """
    ranges.check({"port": port, "top_k": top_k, "batch_size": batch_size}, RANGES)
    limits = Limits.of(max_upload_mb, max_pixels)
    _check_no_loop()
    uvicorn = _framework()
    with listen(host, port) as listening:
        engine = Engine(opened(source, report, options), top_k, batch_size)
        for cause in (engine.no_classes, engine.no_attention):
            if cause is not None:
                report(f"not shown: {cause}")
        report(f"compiling for {batch_size} picture{'s' * (batch_size != 1)} at once ...")
        start = time.perf_counter()
        engine.compile()
        report(f"compiled in {time.perf_counter() - start:.1f} s")
        names = _names(host, listening)
        if names is None:
            report("everybody who can reach this machine can reach this server")
        _run(uvicorn, Asking(engine, limits), top_k, names, listening, announce)
    report("stopped")


def _run(
    uvicorn: ModuleType,
    asking: Asking,
    top_k: int,
    names: Sequence[str] | None,
    listening: socket.socket,
    announce: Callable[[str], None],
) -> None:
    """Serves until a signal comes: uvicorn ends what is in progress and raises it again."""
    from vit_jax.serving.app import build_app

    def ready() -> None:
        if stop.told:  # before uvicorn had the signals
            server.should_exit = True
        announce(_url(listening))

    # Pictures are measured before they are decoded, by our own limit.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    config = uvicorn.Config(
        build_app(asking, top_k, names, ready),
        http="h11",
        ws="none",
        lifespan="on",
        log_config=_log_config(uvicorn),
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = uvicorn.Server(config)
    with StopSignals() as stop:
        server.run(sockets=[listening])


def _check_no_loop() -> None:
    """Raises UserError where asyncio would refuse to run the server's loop, after compiling."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UserError(
        "an event loop runs here already, as in a notebook, and the server needs one of its own: "
        "call it from a thread, or start vit-jax serve in a terminal"
    )


def _names(host: str, listening: socket.socket) -> list[str] | None:
    """What requests may call this server, where only this machine reaches it; else None."""
    address = listening.getsockname()[0]
    if not ipaddress.ip_address(address).is_loopback:
        return None
    return [*_LOCAL, *(f"[{name}]" if ":" in name else name for name in (host, address))]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on this machine.

    Raises:
        UserError: there is no such address here, or the port cannot be had.
    """
    if not host:
        raise UserError(f"the host is empty: give an address of this machine, as {HOST}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=WAITING)
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(
            f"host {host!r} is no name or address that this machine knows ({error}): --host takes "
            f"one of this machine's own, as {HOST} or 0.0.0.0"
        ) from error
    except OSError as error:
        raise UserError(_why_not(host, port, error)) from error


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use by another program: choose another with --port, or 0 "
            "for any that is free"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"host {host!r} is no address of this machine: --host takes one of its own, as {HOST} "
            "or 0.0.0.0"
        )
    if error.errno == errno.EACCES:
        return f"port {port} is kept for the system: choose one from 1024 on with --port"
    return f"cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}"


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _log_config(uvicorn: ModuleType) -> dict[str, Any]:
    """One line a request, on standard error, where everything is that is not a result."""
    found = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    found["handlers"]["access"]["stream"] = "ext://sys.stderr"
    for formatter in found["formatters"].values():
        formatter["use_colors"] = sys.stderr.isatty()
    found["loggers"]["uvicorn"]["level"] = "WARNING"
    found["loggers"]["uvicorn.error"]["level"] = "WARNING"
    return found


def _framework() -> ModuleType:
    try:
        import python_multipart  # noqa: F401, which Starlette reads forms with
        import starlette  # noqa: F401
        import uvicorn
        import uvicorn.config
    except ImportError as error:
        raise UserError(
            f'serving needs Starlette and uvicorn ({error}): pip install "vit_jax[serve]"'
        ) from error
    return uvicorn
