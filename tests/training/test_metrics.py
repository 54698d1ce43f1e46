import fcntl
import io
import json
import math
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vit_jax.errors import UserError
from vit_jax.training.metrics import MetricWriter, ProgressBar, read_metrics


def write_steps(workdir, steps, resume_step=None, offset=0.0):
    writer = MetricWriter(workdir, resume_step)
    for step in steps:
        writer.write(step, "train", {"loss": step + offset})
    writer.close()


def steps_of(workdir):
    return [entry["step"] for entry in read_metrics(workdir)]


def test_one_json_object_a_line(tmp_path):
    writer = MetricWriter(tmp_path / "new" / "folder")
    writer.write(3, "train", {"loss": np.float32(0.5), "skipped": jnp.int32(2)})
    writer.write(jnp.int32(4), "test", {"top1": jnp.bfloat16(0.25), "loss": 1})
    writer.close()
    writer.close()
    lines = (tmp_path / "new" / "folder" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 3, "split": "train", "loss": 0.5, "skipped": 2},
        {"step": 4, "split": "test", "top1": 0.25, "loss": 1},
    ]


def test_nan_and_infinity_are_valid_json_and_come_back(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(1, "train", {"a": float("nan"), "b": np.float32(np.inf), "c": -jnp.inf})
    writer.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse)["a"] == "NaN"
    (entry,) = read_metrics(tmp_path)
    assert math.isnan(entry["a"]) and (entry["b"], entry["c"]) == (math.inf, -math.inf)
    # They survive the rewriting of a resume too.
    MetricWriter(tmp_path, resume_step=1).close()
    assert math.isnan(read_metrics(tmp_path)[0]["a"])
    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)


@pytest.mark.parametrize("value", [np.zeros(2), "0.5", None, True])
def test_what_is_not_one_number_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="'loss' has shape"):
        MetricWriter(tmp_path).write(1, "train", {"loss": value})


def test_names_of_the_lines_own_fields_are_refused(tmp_path):
    with pytest.raises(ValueError, match="may not be called 'step'"):
        MetricWriter(tmp_path).write(1, "train", {"step": 2})


def test_a_resumed_run_has_every_step_once(tmp_path):
    write_steps(tmp_path, [10, 20, 30, 40])
    write_steps(tmp_path, [30, 40, 50], resume_step=20, offset=0.5)
    entries = read_metrics(tmp_path)
    assert [(e["step"], e["loss"]) for e in entries] == [
        (10, 10),
        (20, 20),
        (30, 30.5),
        (40, 40.5),
        (50, 50.5),
    ]


def test_a_run_that_starts_anew_keeps_no_line_of_the_attempt_before(tmp_path):
    write_steps(tmp_path, [0, 10])
    write_steps(tmp_path, [0])
    assert steps_of(tmp_path) == [0]


@pytest.mark.parametrize("torn", [b'{"step": 30, "spl', b'{"step": 30, "split": "train"}', b"\x00"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    write_steps(tmp_path, [10, 20])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert steps_of(tmp_path) == [10, 20]
    write_steps(tmp_path, [30], resume_step=20)
    assert steps_of(tmp_path) == [10, 20, 30]


def test_a_broken_line_elsewhere_is_an_error(tmp_path):
    for line in ("rubbish", "[1, 2]", '{"loss": 1}', '{"step": 1, "split": "train", "x": "y"}'):
        write_steps(tmp_path, [10])
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(line + "\n" + '{"step": 20, "split": "train"}\n')
        with pytest.raises(ValueError, match=r"line 2 of .* is not a line of metrics"):
            MetricWriter(tmp_path, resume_step=10)
        (tmp_path / "metrics.jsonl").unlink()


def test_a_kill_while_resuming_leaves_the_old_file(tmp_path, monkeypatch):
    write_steps(tmp_path, [10, 20])
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            MetricWriter(tmp_path, resume_step=10)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    write_steps(tmp_path, [], resume_step=10)
    assert steps_of(tmp_path) == [10]


WRITES_FOREVER = """
import sys
from vit_jax.training.metrics import MetricWriter
writer = MetricWriter(sys.argv[1])
step = 0
while True:
    step += 1
    writer.write(step, "train", {"loss": step / 3})
    print(step, flush=True)
"""


def test_what_was_written_survives_kill_9(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES_FOREVER, tmp_path], stdout=subprocess.PIPE, text=True
    )
    for _ in range(20):
        last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = steps_of(tmp_path)
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= last == 20
    assert {e.step for e in tensorboard(tmp_path, "train/loss")} >= set(range(1, 21))


def tensorboard(workdir, tag):
    """What TensorBoard itself makes of the event files."""
    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return events.Scalars(tag)


def test_tensorboard_shows_the_scalars(tmp_path):
    before = time.time()
    writer = MetricWriter(tmp_path)
    large = 2**40 + 5
    writer.write(1, "train", {"loss": 0.1, "skipped": 3})
    writer.write(large, "train", {"loss": 1e300, "skipped": float("nan")})
    writer.write(1, "test", {"loss": -2.5})
    writer.close()
    loss = tensorboard(tmp_path, "train/loss")
    assert [(e.step, e.value) for e in loss] == [(1, np.float32(0.1)), (large, np.inf)]
    assert before <= loss[0].wall_time <= time.time()
    assert math.isnan(tensorboard(tmp_path, "train/skipped")[1].value)
    assert [e.value for e in tensorboard(tmp_path, "test/loss")] == [-2.5]


def test_tensorboard_shows_the_steps_of_a_resumed_run_once(tmp_path):
    write_steps(tmp_path, [10, 20, 30, 40])
    write_steps(tmp_path, [30, 40, 50], resume_step=20, offset=0.5)
    shown = [(e.step, e.value) for e in tensorboard(tmp_path, "train/loss")]
    assert shown == [(10, 10), (20, 20), (30, 30.5), (40, 40.5), (50, 50.5)]
    write_steps(tmp_path, [10], offset=0.25)
    assert [(e.step, e.value) for e in tensorboard(tmp_path, "train/loss")] == [(10, 10.25)]


@pytest.mark.parametrize("channels", [1, 3])
def test_tensorboard_shows_pictures(tmp_path, channels):
    """The pixels that TensorBoard decodes are those that were written."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    writer = MetricWriter(tmp_path)
    writer.write_pictures(300, "test", {"painted": pixels})
    writer.write_pictures(301, "test", {})
    for wrong in (pixels.astype(float), pixels[..., 0], pixels.repeat(2, axis=2)):
        with pytest.raises(UserError, match=r"expected \(height, width, 1 or 3\) and uint8"):
            writer.write_pictures(302, "test", {"painted": wrong})
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (shown,) = events.Images("test/painted")
    assert (shown.step, shown.height, shown.width) == (300, 5, 7)
    decoded = np.asarray(Image.open(io.BytesIO(shown.encoded_image_string)))
    np.testing.assert_array_equal(decoded.reshape(pixels.shape), pixels)


def test_only_process_0_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    write_steps(tmp_path / "other", [1])
    assert not (tmp_path / "other").exists()
    bar = ProgressBar(10)
    bar.update(5, 0.5, 100.0)
    bar.write("text")
    bar.close()
    assert capsys.readouterr() == ("", "")


def test_writing_loads_neither_tensorflow_nor_pytorch(tmp_path):
    program = (
        "import sys; from vit_jax.training.metrics import *\n"
        "w = MetricWriter(sys.argv[1]); w.write(1, 'train', {'loss': 1.0}); w.close()\n"
        "b = ProgressBar(3); b.update(1, 1.0, 1.0); b.close()\n"
        "print({'torch', 'tensorflow', 'tensorboard', 'tensorboardX'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_bar_is_silent_without_a_terminal(capsys):
    bar = ProgressBar(10)
    bar.update(5, 0.5, 100.0)
    bar.write("epoch 1: top1 0.9")
    bar.close()
    assert capsys.readouterr() == ("epoch 1: top1 0.9\n", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_shows_step_loss_speed_and_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    bar = ProgressBar(total_steps=200, initial=100)
    time.sleep(0.15)  # tqdm draws at most ten times a second
    bar.update(150, jnp.float32(0.54321), 1234.5)
    bar.close()
    bar.close()
    last = terminal.getvalue().rstrip().split("\r")[-1]
    assert last.startswith(" 75%|")
    assert "step 150/200, loss 0.5432, 1,234 images/s" in last and last.endswith(" left")


def test_text_does_not_break_the_bar():
    """On a real terminal: every line of text starts at the left edge, cleared of the bar."""
    program = (
        "from vit_jax.training.metrics import ProgressBar\n"
        "bar = ProgressBar(4)\n"
        "for step in range(1, 5):\n"
        "    bar.update(step, 1 / step, 10.0)\n"
        "    bar.write(f'note {step}')\n"
        "bar.close()\n"
    )
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=child, stderr=child)
    os.close(child)
    output = b""
    while chunk := _read(parent):
        output += chunk
    assert process.wait() == 0
    lines = output.decode().replace("\r\n", "\n").split("\n")
    notes = [line.split("\r")[-1] for line in lines if "note" in line]
    assert notes == [f"note {step}" for step in range(1, 5)]
    assert "step 4/4, loss 0.2500" in output.decode()


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end was closed
        return b""
