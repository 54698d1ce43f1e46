"""Images a second of one core: decode + Inception crop + flip at 224, ours beside PIL and tf.data.

    python benchmarks/data_throughput.py --images FOLDER_OF_JPEGS

Every contender runs in a process of its own, pinned to the same core, and reads the same files
from the page cache: `--images`, or 200 synthetic ones of 500x375. Rounds alternate between the
contenders. A rate is images per second of the processor time the process used (all threads
together), the median over the rounds: other programs on the machine change it little.

Contenders, all ending in batches of uint8 224x224x3:

- ours: `vit_jax.data.train_batches`, decoding at reduced scale where the crop allows it.
- ours, whole: the same with `inception_crop(reduced=False)`.
- PIL: open, convert, crop, resize, transpose and np.asarray in a plain loop: the pixels of
  "ours, whole" with no pipeline around it.
- tf.data, bicubic: decode_and_crop_jpeg (decodes the crop alone) and tf.image.resize with
  antialias: the same filter as above.
- tf.data, bilinear: the same with a bilinear resize and no antialias, which is cheaper, and common
  in TPU code.

Needs TensorFlow for its part; without it the other contenders run.
"""

import argparse
import importlib.metadata
import importlib.util
import math
import multiprocessing
import os
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

from report import write

RESULTS = pathlib.Path(__file__).parent / "results/data_throughput.json"
SIZE = 224
BATCH = 32
SPEC = "inception_crop(scale=(0.08, 1.0)) | flip"
WHOLE = "inception_crop(scale=(0.08, 1.0), reduced=False) | flip"


def ours(files: list[str], spec: str) -> Iterator[object]:
    """Our pipeline in one thread; an endless iterator of batches."""
    from vit_jax.data import build_transform, pipeline
    from vit_jax.data.sources import Source

    class Files(Source):
        class_names = ("any",)
        fingerprint = "files"

        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> dict:
            image = pathlib.Path(files[index]).read_bytes()
            return {"image": image, "label": 0, "name": files[index]}

    pipeline.MAX_THREADS = 1
    transform = build_transform(spec, SIZE, interpolation="bicubic")
    return pipeline.train_batches(Files(), transform, batch_size=BATCH, seed=0)


def pil(files: list[str]) -> Iterator[object]:
    """The same operations in a plain loop."""
    import numpy as np
    from PIL import Image

    rng = random.Random(0)
    while True:
        batch = np.empty((BATCH, SIZE, SIZE, 3), np.uint8)
        for row in range(BATCH):
            image = Image.open(rng.choice(files)).convert("RGB")
            box = _random_box(*image.size, rng)
            image = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            batch[row] = np.asarray(image)
        yield batch


def _random_box(width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def tf_data(files: list[str], method: str, antialias: bool) -> Iterator[object]:
    """The usual tf.data pipeline, in one thread."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def load(file: tf.Tensor) -> tf.Tensor:
        data = tf.io.read_file(file)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data),
            tf.zeros([0, 0, 4]),
            area_range=(0.08, 1),
            aspect_ratio_range=(3 / 4, 4 / 3),
            min_object_covered=0,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], size[0], size[1]])
        image = tf.io.decode_and_crop_jpeg(data, window, channels=3)
        image = tf.image.resize(image, [SIZE, SIZE], method, antialias=antialias)
        image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return tf.image.random_flip_left_right(image)

    dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), seed=0).repeat()
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return dataset.map(load).batch(BATCH).with_options(options).as_numpy_iterator()


CONTENDERS: dict[str, tuple[Callable[..., Iterator[object]], tuple]] = {
    "ours": (ours, (SPEC,)),
    "ours, whole": (ours, (WHOLE,)),
    "PIL": (pil, ()),
    "tf.data, bicubic": (tf_data, ("bicubic", True)),
    "tf.data, bilinear": (tf_data, ("bilinear", False)),
}


def serve(name: str, files: list[str], core: int, pipe: object) -> None:
    """A contender's process: measures a round of so many seconds whenever it is told to."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.sched_setaffinity(0, {core})
    make, args = CONTENDERS[name]
    batches = make(files, *args)
    for _ in range(3):  # imports, tracing
        next(batches)
    pipe.send("ready")
    while (seconds := pipe.recv()) is not None:
        images, wall, used = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < seconds:
            next(batches)
            images += BATCH
        pipe.send((images / (time.process_time() - used), images / (time.perf_counter() - wall)))
    os._exit(0)  # nothing to save, and threads of three libraries to wait for


def measure(files: list[str], rounds: int, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """Returns each contender's (images per CPU second, images per second) of every round."""
    context = multiprocessing.get_context("spawn")
    core = min(os.sched_getaffinity(0))
    pipes = {}
    for name, (make, _) in CONTENDERS.items():
        if make is tf_data and importlib.util.find_spec("tensorflow") is None:
            print(f"{name}: left out, TensorFlow is not installed")
            continue
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, files, core, theirs), daemon=True).start()
        pipes[name].recv()
    rates = {name: [] for name in pipes}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(seconds)
            rates[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(None)
    return rates


def synthesise(folder: pathlib.Path, count: int = 200) -> None:
    """Writes JPEGs of 500x375 with roughly the spectrum of photographs (1/f) at quality 90."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500)[None]
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / 500)
    for i in range(count):
        noise = rng.standard_normal((3, 375, 251)) + 1j * rng.standard_normal((3, 375, 251))
        picture = np.fft.irfft2(noise * falloff, (375, 500)).transpose(1, 2, 0)
        picture = 128 + 50 * (picture - picture.mean()) / picture.std()
        image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{i:03}.jpg", quality=90)


def libraries() -> list[str]:
    """Distributions of what is compared, as far as they are installed."""
    names = ("numpy", "grain", "tensorflow", "tensorflow-cpu", "pillow")
    there = {one.metadata["Name"].lower() for one in importlib.metadata.distributions()}
    return [name for name in names if name in there]


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=pathlib.Path, help="a folder of JPEGs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.images or pathlib.Path(temporary)
        if args.images is None:
            synthesise(folder)
        files = sorted(str(p) for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
        if not files:
            parser.error(f"no .jpg or .jpeg in {folder}")
        sizes = statistics.mean(os.path.getsize(file) for file in files)
        rates = measure(files, args.rounds, args.seconds)
    what = "synthetic" if args.images is None else "/".join(folder.parts[-2:])
    print(f"{len(files)} JPEGs ({what}), {sizes / 1e3:.0f} kB on average\n")
    print(f"{'':20}{'images / core-second':>22}{'lowest':>9}{'highest':>9}{'of PIL':>9}")
    results = {}
    pil_rate = statistics.median(rate for rate, _ in rates["PIL"])
    for name, rounds in rates.items():
        values = [rate for rate, _ in rounds]
        median = statistics.median(values)
        results[name] = {
            "images_per_core_second": round(median, 1),
            "lowest": round(min(values), 1),
            "highest": round(max(values), 1),
            "images_per_second_of_wall_time": round(statistics.median(w for _, w in rounds), 1),
        }
        print(
            f"{name:20}{median:22.0f}{min(values):9.0f}{max(values):9.0f}{median / pil_rate:9.2f}"
        )
    write(
        args.output,
        "decode + inception crop + flip, uint8 224x224x3, one core",
        results,
        libraries(),
        devices=False,
        images={"source": what, "count": len(files), "mean_bytes": round(sizes)},
        rounds=args.rounds,
        seconds_a_round=args.seconds,
    )


if __name__ == "__main__":
    main()
