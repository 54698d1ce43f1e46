"""Servers for the tests: a process, as users start it, and one inside the process of the tests."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import uvicorn

from tests.training import processes
from vit_jax.serving.app import build_app
from vit_jax.serving.asking import Asking
from vit_jax.serving.engine import Engine
from vit_jax.serving.limits import Limits
from vit_jax.serving.run import _names, _url, listen

SECONDS = 120  # until a server has started, on a machine that does other things too


class Process:
    """`vit-jax serve`: the process, its address, and what it has written on standard error."""

    def __init__(self, folder, model, *options):
        self.log = folder / "stderr"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                processes.command("serve", model, "--port", 0, *options),
                env=processes.environment(1),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # a signal for the tests is not for it
            )
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.said()

    def said(self):
        return self.log.read_text()

    def stop(self, signal):
        """Tells it to stop; returns its exit code and the rest of its output."""
        self.process.send_signal(signal)
        rest, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, rest

    def peak_memory(self):
        """The most that it has had, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def addresses(self):
        """Where it listens, as /proc has it: (hexadecimal address, port)."""
        place = Path(f"/proc/{self.process.pid}")
        links = [os.readlink(entry) for entry in (place / "fd").iterdir()]
        found = []
        for table in ("tcp", "tcp6"):
            lines = (place / "net" / table).read_text().splitlines()
            for row in map(str.split, lines[1:]):
                if row[3] == "0A" and f"socket:[{row[9]}]" in links:
                    address, port = row[1].split(":")
                    found.append((address, int(port, 16)))
        return found


@contextlib.contextmanager
def process(*arguments):
    server = Process(*arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


class Gated:
    """An engine that computes only while its gate is open; it notes how many it was given."""

    def __init__(self, engine):
        self._engine, self.gate, self.sizes = engine, threading.Event(), []

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def __call__(self, images, look):
        self.sizes.append(len(images))
        assert self.gate.wait(SECONDS)
        return self._engine(images, look)


@contextlib.contextmanager
def inside(model, limits=None, gated=False, batch_size=4, host="127.0.0.1"):
    """Serves `model` from a thread; yields the address and the engine."""
    engine = Engine(model, 5, batch_size)
    engine.compile()
    engine = Gated(engine) if gated else engine
    limits = limits or Limits.of(4, 1_000_000)
    listening = listen(host, 0)
    app = build_app(Asking(engine, limits), 5, _names(host, listening))
    config = uvicorn.Config(app, ws="none", http="h11", lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield _url(listening), engine
    finally:
        if gated:
            engine.gate.set()
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def begun_upload(url, length=1000, sent=b"half"):
    """A request whose body has begun and does not go on; yields its socket."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), SECONDS) as connection:
        head = (
            f"POST /api/predict HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {length}\r\n\r\n"
        )
        connection.sendall(head.encode() + sent)
        yield connection


def eventually(condition):
    """Waits until something is so."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
