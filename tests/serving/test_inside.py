"""What does not depend on a process: requests together, limits on them, models of all kinds."""

import base64
import concurrent.futures
import dataclasses
import io
import socket
import tempfile
import threading

import numpy as np
import pytest
import requests
from PIL import Image

import vit_jax
from tests.data.pictures import encode, natural
from tests.inference import tiny
from tests.serving import server
from vit_jax import visualize
from vit_jax.errors import UserError
from vit_jax.serving.batches import Batches
from vit_jax.serving.engine import Engine
from vit_jax.serving.limits import Limits

PICTURE = encode(natural(20, 30))


def ask(url, data=PICTURE, attention="false"):
    address = f"{url}/api/predict?attention={attention}"
    return requests.post(address, data=data, timeout=server.SECONDS)


@pytest.fixture
def queues(monkeypatch):
    """The queues of all batches that a test makes."""
    found, usual = [], Batches.__init__

    def noted(self, *arguments):
        usual(self, *arguments)
        found.append(self._waiting)

    monkeypatch.setattr(Batches, "__init__", noted)
    return found


def test_those_who_wait_are_computed_together_and_nothing_else_waits(queues):
    with (
        server.inside(tiny.vit(), gated=True) as (url, engine),
        concurrent.futures.ThreadPoolExecutor(10) as pool,
    ):
        first = pool.submit(ask, url)
        server.eventually(lambda: engine.sizes == [1])
        rest = [pool.submit(ask, url) for _ in range(9)]
        assert requests.get(f"{url}/healthz", timeout=server.SECONDS).ok
        server.eventually(lambda: any(x.qsize() == 9 for x in queues))  # all are decoded
        engine.gate.set()
        answers = [future.result() for future in (first, *rest)]
        assert {answer.text for answer in answers} == {answers[0].text} and answers[0].ok
        assert engine.sizes == [1, 4, 4, 1]
        assert engine._classify._apply._cache_size() == 1


def test_too_many_are_told_to_come_back():
    limits = dataclasses.replace(Limits.of(1, 10**6), requests=2)
    with server.inside(tiny.vit(), limits) as (url, _), server.begun_upload(url, len(PICTURE)):
        with server.begun_upload(url, len(PICTURE), PICTURE[:9]) as second:
            server.eventually(lambda: ask(url).status_code == 503)
            answer = ask(url)
            assert "2 pictures are being looked at" in answer.json()["error"]
            assert int(answer.headers["retry-after"]) >= 1
            second.sendall(PICTURE[9:])
            assert second.recv(100).startswith(b"HTTP/1.1 200")
        server.eventually(lambda: ask(url).status_code == 200)


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_it_is_reached_by_the_address_that_it_says(host):
    if host == "::1" and not _has_ipv6():
        pytest.skip("no IPv6 on this machine")
    with server.inside(tiny.vit(), host=host) as (url, _):
        assert ask(url).status_code == 200
        other = requests.get(url, headers={"Host": "evil.example"}, timeout=server.SECONDS)
        assert other.status_code == 400


def _has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_an_upload_that_does_not_arrive():
    limits = dataclasses.replace(Limits.of(1, 10**6), upload_seconds=0.2)
    with server.inside(tiny.vit(), limits) as (url, _), server.begun_upload(url) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_who_goes_away_gives_the_place_back():
    limits = dataclasses.replace(Limits.of(1, 10**6), requests=1)
    with server.inside(tiny.vit(), limits) as (url, _):
        with server.begun_upload(url):
            server.eventually(lambda: ask(url).status_code == 503)
        server.eventually(lambda: ask(url).status_code == 200)


def test_nothing_is_written_to_a_disk(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a temporary file")

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    noise = np.random.default_rng(0).integers(0, 256, (900, 1100, 3), np.uint8)
    data = encode(noise, "BMP")
    assert len(data) > 2_900_000  # Starlette's forms go to a file from 1 MiB on
    with server.inside(tiny.vit()) as (url, _):
        answer = requests.post(f"{url}/api/predict", files={"file": ("x.bmp", data)})
    assert answer.status_code == 200, answer.text


def test_a_failure_is_told_without_its_cause_and_the_next_request_is_answered(monkeypatch, caplog):
    with server.inside(tiny.vit(), gated=True) as (url, engine):
        engine.gate.set()
        usual = engine._engine

        def broken(images, look):
            raise RuntimeError("in /secret/place")

        engine._engine = _Broken(usual, broken)
        answer = ask(url)
        assert answer.status_code == 500 and "log" in answer.json()["error"]
        assert "secret" not in answer.text and "nosniff" in answer.headers.values()
        server.eventually(lambda: "in /secret/place" in caplog.text)  # a moment later
        engine._engine = usual
        assert ask(url).status_code == 200


class _Broken:
    def __init__(self, engine, call):
        self._engine, self._call = engine, call

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def __call__(self, images, look):
        return self._call(images, look)


def test_batches_end_when_all_are_computed():
    gate = threading.Event()
    batches = Batches(lambda items: gate.wait() and [2 * x for x in items], 3)
    futures = [batches.submit(i) for i in range(8)]
    futures[5].cancel()
    closing = threading.Thread(target=batches.close)
    closing.start()
    gate.set()
    closing.join(server.SECONDS)
    assert not closing.is_alive()
    assert [x.result() for x in futures if not x.cancelled()] == [0, 2, 4, 6, 8, 12, 14]


# Models of all kinds.


def prepared(model):
    return vit_jax.preprocess(PICTURE, model.preprocessing, model.module.img_size)


MAPS = {
    "class token": lambda: tiny.vit(depth=3, reg_tokens=2),
    "scanned": lambda: tiny.vit(depth=3, scan=True),
    "mean of patches": lambda: tiny.vit(depth=2, class_token=False, global_pool="avg"),
    "pooling": lambda: tiny.vit(depth=2, class_token=False, global_pool="map"),
    "autoencoder": tiny.mae,
    "bfloat16": lambda: tiny.vit(depth=2, dtype="bfloat16"),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_those_of_visualize(name):
    """By its own functions, one picture alone; here it is one of two in a batch of three."""
    model = MAPS[name]()
    engine, image = Engine(model, 5, 3), prepared(model)
    *_, answer = engine([np.zeros_like(image), image], [False, True])
    mean, *heads, rolled = engine.maps(answer.looked)
    assert [x.ndim for x in answer.looked] == [2, 1]  # what waits grows with no square
    module = visualize.plain_encoder(model.module, "attention")
    seen = visualize.intermediates(module, model.params, image[None], ("attention", "features"))
    weights, prefix = seen.attention[:, 0], module.num_prefix_tokens
    expected = visualize.attention_map(weights[-1], module.grid(), prefix, module.class_token)
    if name == "pooling":
        (shares,) = visualize.pooling_weights(module, model.params, seen.features)
        expected = visualize.on_grid(shares, module.grid())
    close = dict(rtol=1e-2 if name == "bfloat16" else 1e-4, atol=1e-6)
    assert len(heads) == module.num_heads
    for i, (title, found) in enumerate(heads):
        assert title == f"head {i}"
        np.testing.assert_allclose(found.patches, expected.patches[i], **close)
        np.testing.assert_allclose(found.prefix, expected.prefix[i], **close)
    np.testing.assert_allclose(mean.map.patches, expected.mean().patches, **close)
    row = visualize.queries(visualize.rollout(weights), prefix, module.class_token)
    np.testing.assert_allclose(rolled.map.patches.ravel(), row[prefix:], **close)


@pytest.mark.parametrize(
    "make, no_classes, no_attention",
    [
        (tiny.vit, None, None),
        (lambda: tiny.vit(num_classes=0), "no classifier", None),
        (tiny.mae, "masked autoencoder", None),
        (tiny.swin, None, "a Swin Transformer attends within windows"),
        (tiny.resnet, None, "no transformer"),
    ],
)
def test_what_a_model_does_not_have_is_said(make, no_classes, no_attention):
    model = make()
    with server.inside(model) as (url, _):
        told = requests.get(f"{url}/api/model").json()
        answer = ask(url, attention="true").json()
    for what, why, found in (
        ("no_classes", no_classes, answer["classes"]),
        ("no_attention", no_attention, answer.get("attention")),
    ):
        assert (told[what] is None) == (why is None) == (found is not None)
        assert why is None or why in told[what]
    if not no_attention:  # the picture that the model saw
        data = answer["picture"].removeprefix("data:image/png;base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
            assert shown.size == (12, 8)


def test_a_grey_model_is_shown_grey_pictures():
    model = tiny.drawn(
        "vit_tiny_patch16_224", vit_jax.models.Preprocessing(), **{**tiny.VIT, "in_chans": 1}
    )
    with server.inside(model) as (url, _):
        assert ask(url, attention="true").json()["picture"].startswith("data:image/png;base64,")


def test_a_model_that_has_neither():
    model = tiny.drawn("swin_tiny_patch4_window7_224", **tiny.SWIN, num_classes=0)
    with pytest.raises(UserError, match=r"nothing to show.*no classifier.*windows.*features"):
        Engine(model, 5, 4)
