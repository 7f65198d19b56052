"""Images per second of a stream's input side: read, decoded, cut and put into blocks on the host.

A set of JPEG images of the size of ImageNet's (500 x 375 and others, about 86 KB) is prepared as
array_record files in a temporary folder, without TensorFlow, and streamed at 224 x 224. Next to the
rate by the clock, images per second of CPU time say what one core gives that does nothing else:
on a shared machine the rate by the clock tells more of the neighbors. The stages of one image are
measured alone, in one thread.

Command:  python -m experiments.benchmarks.stream [--images 400 --rounds 3 --publish]
Cost:     1 minute on 2 CPU cores
Expected: about 265 images per second of CPU time on a 2.5 GHz Xeon core. An image takes 3.5 ms, of
          which decoding takes 2.1, the crop 1.0 and reading 0.3; the pipeline around them adds
          less than a tenth. By the clock 120 to 190 with one or two threads alike, since other
          work kept both cores busy: how threads scale has to be measured on an idle machine
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import jaxticket as jt
from experiments.benchmarks._machine import machine, publish
from jaxticket.data import crops
from jaxticket.data.blocks import Request, blocks

SIZES = ((375, 500), (333, 500), (500, 375), (500, 500), (768, 1024))
SHARES = (0.5, 0.2, 0.15, 0.1, 0.05)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Images per second of the input side alone."""

    images: int = 400
    """Images of the prepared set."""
    batch: int = 128
    """Images of a block."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads."""
    rounds: int = 3
    """How often each is measured."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/stream.csv and stream.json."""


def picture(rng: np.random.Generator) -> bytes:
    """Make a JPEG image with structure at all scales, as photographs have it."""
    height, width = SIZES[rng.choice(len(SIZES), p=SHARES)]
    x = np.zeros((height, width, 3), np.float32)
    for scale in (4, 8, 16, 32, 64, 128):
        small = rng.normal(size=(height // scale + 2, width // scale + 2, 3)) * scale**0.7
        small = np.uint8(np.clip(128 + 6 * small, 0, 255))
        x += np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    x += rng.normal(size=x.shape).astype(np.float32) * 24
    low, high = np.percentile(x, (1, 99))
    file = io.BytesIO()
    pixels = np.uint8(np.clip(255 * (x - low) / (high - low), 0, 255))
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def prepare(folder: Path, images: int) -> None:
    """Write the set "pictures"."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    tfds.disable_progress_bar()
    with registered.skip_registration():

        class Pictures(tfds.core.GeneratorBasedBuilder):
            """Made-up photographs."""

            VERSION = tfds.core.Version("1.0.0")
            name = "pictures"

            def _info(self) -> tfds.core.DatasetInfo:
                features = {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager: object) -> dict[str, object]:
                return {
                    "train": self._generate_examples(images),
                    "test": self._generate_examples(8),
                }

            def _generate_examples(self, n: int) -> Iterator[tuple[int, dict[str, object]]]:  # type: ignore[override]
                rng = np.random.default_rng(n)
                for i in range(n):
                    yield i, {"image": io.BytesIO(picture(rng)), "label": i % 10}

    Pictures(data_dir=str(folder), file_format="array_record").download_and_prepare()


def measured(source: jt.data.Stream, settings: Settings) -> tuple[float, float, int]:
    """Measure seconds by the clock and of CPU time for all images, and how many."""
    rng = np.random.default_rng(0)
    count = len(source.train) // settings.batch
    index = rng.permutation(len(source.train))[: count * settings.batch].reshape(count, -1)
    draws = rng.random((*index.shape, crops.DRAWS), np.float32)
    random = source.train_crop == "random"

    def request(block: int) -> Request:
        return Request(index[block], draws[block] if random else None)

    clock, cpu = time.perf_counter(), time.process_time()
    with blocks(source, request, count, shape=(settings.batch,), put=lambda x, y: (x, y)) as found:
        for _ in found:
            pass
    return time.perf_counter() - clock, time.process_time() - cpu, index.size


def stages(source: jt.data.Stream) -> dict[str, float]:
    """Measure milliseconds of CPU time of each stage for one image, in one thread; mean of 200."""
    n = min(200, len(source.train))
    draws = np.random.default_rng(1).random((n, crops.DRAWS))
    times = [time.process_time()]
    rows = source.train.read(range(n))
    times.append(time.process_time())
    images = [crops.decoded(encoded, 3, "") for encoded, _ in rows]
    times.append(time.process_time())
    for image, u in zip(images, draws, strict=True):
        crops.pixels(image, crops.random_box((image.height, image.width), u), source.size)
    times.append(time.process_time())
    for image in images:
        box = crops.center_box((image.height, image.width), source.size, source.resize)
        crops.pixels(image, box, source.size)
    times.append(time.process_time())
    names = ("read", "decode", "random crop", "central crop")
    result = {
        name: round(1e3 * float(t) / n, 3) for name, t in zip(names, np.diff(times), strict=True)
    }
    return result | {"mean kilobytes": round(float(np.mean([len(e) for e, _ in rows])) / 1e3, 1)}


def main(settings: Settings) -> None:
    """Measure all variants in turn."""
    here = machine("grain", "numpy", "pillow", "tensorflow-datasets")
    print(here)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), settings.images)
        make = dict(data_dir=folder, mean=(128,) * 3, std=(60,) * 3)
        sources = {
            (crop, threads): jt.data.stream("pictures", train_crop=crop, threads=threads, **make)  # type: ignore[arg-type]
            for crop in ("random", "center")
            for threads in settings.threads
        }
        one = stages(next(iter(sources.values())))
        print(one)
        for source in sources.values():
            source.train.read([0])
        for number in range(settings.rounds):
            for (crop, threads), source in sources.items():
                clock, cpu, count = measured(source, settings)
                rows.append(
                    {
                        "crop": crop,
                        "threads": threads,
                        "round": number,
                        "images": count,
                        "images_per_second": round(count / clock, 1),
                        "images_per_cpu_second": round(count / cpu, 1),
                    }
                )
                print(rows[-1])
    summary: dict[str, object] = {"machine": here, "milliseconds_per_image": one, "settings": {}}
    summary["settings"] = {"images": settings.images, "batch": settings.batch}
    for crop, threads in sources:
        mine = [r for r in rows if (r["crop"], r["threads"]) == (crop, threads)]
        summary[f"{crop}, {threads} threads"] = {
            key: float(np.median([r[key] for r in mine]))
            for key in ("images_per_second", "images_per_cpu_second")
        }
    if settings.publish:
        publish("stream", rows, summary)


if __name__ == "__main__":
    main(tyro.cli(Settings))
