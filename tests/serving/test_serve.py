"""`vit-jax serve` as a process of its own: its answers, and what it does with bad uploads."""

import concurrent.futures
import re
import select
import signal
import socket
import threading

import numpy as np
import pytest
import requests
from PIL import Image

import vit_jax
from tests.data.pictures import encode, natural
from tests.inference import tiny
from tests.serving import server
from tests.serving.bombs import bomb
from vit_jax.convert import folder

MOST = 1_000_000  # bytes of an upload
BATCH = 4


@pytest.fixture(scope="module")
def model():
    return tiny.vit(class_names=tiny.NAMES, depth=2, img_size=(16, 24))


@pytest.fixture(scope="module")
def running(tmp_path_factory, model):
    place = tmp_path_factory.mktemp("serve")
    folder.save(place / "model", model)
    options = ("--max-upload-mb", MOST / 1e6, "--batch-size", BATCH, "--top-k", 3)
    with server.process(place, place / "model", *options) as found:
        yield found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Seven files; one of them lies on its side, by its EXIF block."""
    place = tiny.write_pictures(tmp_path_factory.mktemp("pictures"))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(natural(20, 30, seed=9), "JPEG", exif=exif)
    (place / "turned.jpg").write_bytes(turned)
    return sorted(path for path in place.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def expected(model, pictures):
    """What `vit_jax.predict` says of each file."""
    found = vit_jax.predict(model, pictures, top_k=3, batch_size=BATCH)
    return {prediction.path: as_json(prediction.guesses) for prediction in found}


def as_json(guesses):
    return [{"index": x.index, "name": x.name, "probability": x.probability} for x in guesses]


def post(running, data, **options):
    address = f"{running.url}/api/predict"
    return requests.post(address, files={"file": ("x", data)}, timeout=server.SECONDS, **options)


def test_answers_are_those_of_predict_to_the_bit(running, pictures, expected):
    for path in pictures:
        answer = post(running, path.read_bytes())
        assert (answer.status_code, answer.json()) == (200, {"classes": expected[path]})
    raw = requests.post(f"{running.url}/api/predict?attention=true", data=path.read_bytes())
    assert raw.json()["classes"] == expected[path]
    maps = raw.json()["attention"]["maps"]
    assert [found["name"] for found in maps] == ["mean of heads", "head 0", "head 1", "rollout"]
    for found in maps:
        assert np.shape(found["patches"]) == (4, 6)
        assert np.sum(found["patches"]) + found["elsewhere"] == pytest.approx(1, abs=1e-4)


def test_fifty_at_once(running, pictures, expected):
    start = threading.Barrier(50)

    def ask(i):
        path = pictures[i % len(pictures)]
        start.wait()
        return path, post(running, path.read_bytes(), params={"attention": str(i % 3 == 0).lower()})

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        for path, answer in pool.map(ask, range(50)):
            assert answer.status_code == 200, answer.text
            assert answer.json()["classes"] == expected[path]


BAD = {
    "no picture": (lambda: b"words, not pixels", 422, "it is not a JPEG, PNG"),
    "cut": (lambda: encode(natural(60, 80), "JPEG")[:-400], 422, "truncated"),
    "empty": (lambda: b"", 400, "empty"),
    "bomb": (bomb, 413, "10,000 x 10,000 pixels, 100.0 million: send one of at most 50.0"),
    "too large": (lambda: bytes(MOST + 1), 413, "at most 1 MB"),
    "far too large": (lambda: bytes(3 * MOST), 413, "at most 1 MB"),
}


@pytest.mark.parametrize("how", ["form", "body"])
@pytest.mark.parametrize("name", BAD)
def test_bad_uploads(running, name, how, tmp_path):
    make, status, words = BAD[name]
    data, before = make(), running.peak_memory()
    if how == "form":
        answer = post(running, data)
    else:
        answer = requests.post(f"{running.url}/api/predict", data=data)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and words in answer.json()["error"]
    assert str(tmp_path.parent.parent) not in answer.text and ".py" not in answer.text
    assert running.peak_memory() < before + 50e6  # the bomb would be 300 MB
    assert "Traceback" not in running.said()


@pytest.mark.parametrize(
    "files, words",
    [
        ({"image": ("x.png", b"1")}, "no file in a field 'file'.*its fields: 'image'"),
        ({"file": (None, b"1")}, "no file in a field 'file'.*its fields: 'file'"),
        ([("file", ("x", b"1")), ("file", ("y", b"1"))], "Too many files"),
    ],
)
def test_wrong_forms(running, files, words):
    answer = requests.post(f"{running.url}/api/predict", files=files)
    assert answer.status_code == 400
    assert re.search(words, answer.json()["error"])


def test_a_damaged_form(running):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (b"--x\r\nno form", b"nothing"):
        answer = requests.post(f"{running.url}/api/predict", data=body, headers=headers)
        assert answer.status_code == 400 and "form" in answer.json()["error"], answer.text


def test_an_endless_upload_is_cut(running):
    """Its length is not announced: what is too long is found while it arrives."""
    host, port = running.url.removeprefix("http://").split(":")
    piece, sent, before = bytes(65536), 0, running.peak_memory()
    head = f"POST /api/predict HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((host, int(port)), server.SECONDS) as connection:
        connection.sendall(head.encode())
        while not select.select([connection], [], [], 0)[0]:
            assert sent < 50 * MOST
            connection.sendall(b"10000\r\n" + piece + b"\r\n")
            sent += len(piece)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert sent > MOST and running.peak_memory() < before + 20 * MOST


def test_what_there_is(running, model):
    found = requests.get(f"{running.url}/api/model").json()
    assert found["classes"] == 6 and found["class_names"] == list(tiny.NAMES)
    assert found["picture"] == {"height": 16, "width": 24, "channels": 3}
    assert found["attention"]["whose"] == "the class token" and found["attention"]["layer"] == 1
    assert found["limits"] == {"max_upload_bytes": MOST, "max_pixels": 50_000_000}
    assert requests.get(f"{running.url}/healthz").json() == {"status": "ok"}
    page = requests.get(running.url)
    assert page.headers["content-type"].startswith("text/html")
    for name in ("page.css", "page.js", "icon.svg"):
        assert name in page.text
        assert requests.get(f"{running.url}/page/{name}").status_code == 200


@pytest.mark.parametrize(
    "method, place, status",
    [
        ("GET", "/api/predict", 405),
        ("GET", "/nothing", 404),
        ("GET", "/page/../run.py", 404),
        ("GET", "/page/%2e%2e/run.py", 404),
        ("POST", "/api/predict?atention=true", 400),
        ("POST", "/api/predict?attention=maybe", 400),
    ],
)
def test_wrong_addresses(running, method, place, status):
    answer = requests.request(method, running.url + place, data=b"x")
    assert answer.status_code == status and answer.json()["error"]


def test_every_answer_has_the_headers(running):
    for answer in (
        requests.get(running.url),
        requests.get(f"{running.url}/nothing"),
        post(running, b"bad"),
        requests.get(running.url, headers={"Host": "example.org"}),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
        assert "server" not in answer.headers


def test_other_pages_are_sent_away(running, pictures):
    """Those that made their name stand for 127.0.0.1, and those whose form points here."""
    rebound = requests.get(f"{running.url}/api/model", headers={"Host": "evil.example:80"})
    assert rebound.status_code == 400
    data = pictures[0].read_bytes()
    for origin, status in (("http://evil.example", 403), ("null", 403), (running.url, 200)):
        assert post(running, data, headers={"Origin": origin}).status_code == status
    port = running.url.rsplit(":", 1)[1]
    assert requests.get(running.url, headers={"Host": f"localhost:{port}"}).status_code == 200


def test_it_listens_on_loopback_alone(running):
    [(address, port)] = running.addresses()
    assert address == "0100007F" and running.url == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_requests_in_progress_are_answered(
    running, tmp_path, pictures, expected, number
):
    data = pictures[0].read_bytes()
    place = running.log.parent / "model"
    with server.process(tmp_path, place, "--top-k", 3, "--batch-size", BATCH) as other:
        with server.begun_upload(other.url, len(data), data[:50]) as connection:
            assert requests.get(f"{other.url}/healthz").ok  # which came later
            other.process.send_signal(number)
            port = int(other.url.rsplit(":", 1)[1])
            server.eventually(lambda: _is_refused(port))
            connection.sendall(data[50:])
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200") and b'"probability"' in answer
        rest, _ = other.process.communicate(timeout=server.SECONDS)
        assert (other.process.returncode, rest) == (0, "")
    said = other.said()
    assert said.startswith("compiling for 4 pictures at once ...\ncompiled in ")
    assert said.endswith("stopped\n")
    assert "Traceback" not in said and "\r" not in said and "\x1b" not in said


def _is_refused(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
