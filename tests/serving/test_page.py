"""The page, in a real browser: Debian's Chromium, without a screen."""

import io
import shutil

import numpy as np
import pytest
import requests
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests.data.pictures import encode, natural
from tests.inference import tiny
from tests.serving import server
from tests.serving.bombs import bomb
from vit_jax.serving.limits import Limits

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT = 60_000  # milliseconds, on a machine that does other things too
BRIGHTEST = [253, 240, 165]  # the end of the page's scale
PHONE = dict(viewport=dict(width=390, height=844))
DESKTOP = dict(viewport=dict(width=1280, height=900))

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """Opens the page of a server; sees to it that nothing else is asked for, and no error."""
    contexts, asked, complaints = [], [], []

    def opened(url, **options):
        contexts.append(browser.new_context(**(options or DESKTOP)))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        page.on("request", lambda request: asked.append((url, request.url)))
        page.on("console", lambda x: complaints.append(x.text) if x.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        expect(page.locator("#limits")).not_to_be_empty()
        return page

    yield opened
    for context in contexts:
        context.close()
    for url, other in asked:
        assert other.startswith((f"{url}/", "data:", "blob:")), other
    # The browser itself complains of an answer whose status is no success.
    assert [x for x in complaints if "Failed to load resource" not in x] == []


@pytest.fixture(scope="module")
def served():
    model = tiny.vit(class_names=tiny.NAMES, depth=2, img_size=(32, 48), patch_size=8, num_heads=4)
    with server.inside(model, Limits.of(0.5, 1_000_000)) as (url, _):
        yield url


def upload(page, data, name="photo.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def overlay(page, at):
    """The colour of the overlay in the middle of a patch (row, column)."""
    row, column = at
    script = """([row, column]) => {
      const canvas = document.getElementById("overlay");
      const [x, y] = [(column + 0.5) * canvas.width / 6, (row + 0.5) * canvas.height / 4];
      return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
    }"""
    return page.evaluate(script, [row, column])


def is_wide(page):
    """Whether the page has to be scrolled sideways."""
    return page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_an_upload_shows_classes_and_where_the_model_looks(visit, served, screen, tmp_path):
    data = encode(natural(300, 400))
    said = requests.post(f"{served}/api/predict?attention=true", data=data).json()
    page = visit(served, **screen)
    expect(page.locator("#about")).to_contain_text("pictures of 48 × 32 pixels, 6 classes")
    upload(page, data)
    expect(page.locator("#status")).to_have_text("This is what the model says of photo.png.")
    rows = page.locator("#bars li")
    expect(rows).to_have_count(5)
    for i, found in enumerate(said["classes"]):
        expect(rows.nth(i)).to_contain_text(found["name"])
        share = float(rows.nth(i).locator(".share").inner_text().removesuffix(" %"))
        assert share == pytest.approx(100 * found["probability"], abs=0.05)
        bar, row = rows.nth(i).locator(".bar").bounding_box(), rows.nth(i).bounding_box()
        assert bar["width"] / row["width"] == pytest.approx(found["probability"], abs=0.02)
    assert page.locator("#preview").evaluate("x => x.naturalWidth") == 400
    # Without the picture below, the colours are those of the scale alone.
    page.locator("#strength").fill("100")
    labels = page.locator("#maps label")
    expect(labels).to_have_text(
        ["mean of heads", "head 0", "head 1", "head 2", "head 3", "rollout"]
    )
    for i, found in enumerate(said["attention"]["maps"]):
        labels.nth(i).click()
        patches = np.asarray(found["patches"])
        best = np.unravel_index(patches.argmax(), patches.shape)
        assert overlay(page, [int(x) for x in best]) == BRIGHTEST
        least = np.unravel_index(patches.argmin(), patches.shape)
        assert sum(overlay(page, [int(x) for x in least])) < sum(BRIGHTEST)
        expect(page.locator("#whose")).to_contain_text("Rollout" if i == 5 else found["name"])
        words = f"row {best[0] + 1} of 4, column {best[1] + 1} of 6"
        assert words in page.locator("#overlay").get_attribute("aria-label")
    assert not is_wide(page)
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as picture:
        picture.save(tmp_path / "page.png")
        assert len(picture.convert("RGB").getcolors(10**7)) > 1000


def test_a_bad_upload_shows_its_sentence_and_a_good_one_follows(visit, served):
    page = visit(served)
    error = page.locator("#error")
    for data, words in (
        (b"no picture at all", "Cannot decode the picture: it is not a JPEG"),
        (b"", "The file photo.png is empty: choose another picture."),
        (bytes(700_000), "The file photo.png has 0.7 MB: choose a picture of at most 0.5 MB."),
        (encode(natural(300, 400))[:-5000], "Cannot decode the picture: "),
        (encode(np.zeros((1001, 1000, 3), np.uint8)), "send one of at most 1.0 million pixels."),
        (bomb(), "10,000 x 10,000 pixels, 100.0 million: send one of at most 1.0 million pixels."),
    ):
        upload(page, data)
        expect(error).to_contain_text(words)
        expect(error).to_be_visible()
        for part in ("#classes", "#attention"):
            expect(page.locator(part)).to_be_hidden()
    assert not is_wide(page)
    upload(page, encode(natural(30, 40)))
    expect(page.locator("#classes")).to_be_visible()
    expect(page.locator("#attention")).to_be_visible()
    expect(error).to_be_hidden()


def test_a_picture_is_dropped(visit, served):
    page = visit(served)
    dropped = page.evaluate_handle(
        """data => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(data)], "dropped.png", {type: "image/png"}));
          return transfer;
        }""",
        list(encode(natural(30, 40))),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    expect(page.locator("#status")).to_contain_text("dropped.png")
    expect(page.locator("#classes")).to_be_visible()


def test_it_is_worked_with_the_keyboard(visit, served):
    page = visit(served)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    upload(page, encode(natural(30, 40)))
    expect(page.locator("#attention")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "strength"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#maps input:checked")).to_have_value("1")
    expect(page.locator("#whose")).to_contain_text("head 0")


def test_a_model_without_attention_says_so(visit):
    with server.inside(tiny.swin()) as (url, _):
        page = visit(url)
        upload(page, encode(natural(30, 40)))
        expect(page.locator("#bars li").first).to_contain_text("class ")
        expect(page.locator("#attention")).to_be_hidden()
        expect(page.locator("#not-shown")).to_have_text(
            "No attention is shown: a Swin Transformer attends within windows and never over the "
            "whole picture."
        )


def test_a_model_without_classes_says_so(visit):
    with server.inside(tiny.mae()) as (url, _):
        page = visit(url)
        upload(page, encode(natural(30, 40)))
        expect(page.locator("#attention")).to_be_visible()
        expect(page.locator("#classes")).to_be_hidden()
        expect(page.locator("#not-shown")).to_contain_text("No classes are shown: a masked autoenc")


def test_a_server_that_is_gone(visit):
    with server.inside(tiny.resnet()) as (url, _):
        page = visit(url)
    upload(page, encode(natural(30, 40)))
    expect(page.locator("#error")).to_contain_text("The server did not answer")
