"""The settings of a training take the user's own: each as code of a user would bring it, compared
with the built-in that it repeats.
"""

import dataclasses
import functools
import os
import signal
import threading
import time
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from few_digits import DATA

import jaxticket as jt
from jaxticket.data.augment import Window
from jaxticket.engine.folder_errors import RunFolderError
from jaxticket.engine.optim import learning_rate, schedule

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(8,))
BASE = jt.Training(
    steps=12, batch_size=16, optimizer="momentum", lr=0.1, milestones=(6,), gamma=0.1,
    augment=("crop", "flip"), augment_pixels=1, eval_every=6, eval_batch_size=48,
)  # fmt: skip
PRUNING = jt.Pruning(levels=1, fraction=0.5, rewind=3)


# --- what a user brings


@dataclasses.dataclass(frozen=True)
class OwnCrop:
    """As "crop": the image moved by up to `pixels`, black outside."""

    pixels: int
    kind = "crop"

    def window(self, window, *, key):
        by = jax.random.bits(key, (2,)) % (2 * self.pixels + 1)
        rows, columns = window.rows + by[0] - self.pixels, window.columns + by[1] - self.pixels
        return Window(rows, columns, 0.0)


@dataclasses.dataclass(frozen=True)
class OwnFlip:
    """As "flip", by the pixels."""

    kind = "flip"

    def __call__(self, images, *, key):
        return jnp.where(jax.random.bits(key, ()) >> 31 == 1, images[:, :, ::-1], images)


def darker(images, *, key):
    return images * jax.random.uniform(key, minval=0.5)


def own_loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


@dataclasses.dataclass(frozen=True)
class Right:
    """As "accuracy"."""

    name = "right"

    def sums(self, logits, labels):
        return jnp.stack([(logits.argmax(-1) == labels).sum(), labels.size])

    def value(self, sums):
        return sums[0] / sums[1]


OWN = {
    "optimizer": BASE.replace(optimizer=functools.partial(optax.sgd, momentum=0.9)),
    "schedule": BASE.replace(schedule=optax.piecewise_constant_schedule(0.1, {6: 0.1}), lr=1.2e-3),
    "rate": BASE.replace(
        optimizer=optax.sgd(optax.piecewise_constant_schedule(0.1, {6: 0.1}), momentum=0.9)
    ),
    "augment": BASE.replace(augment=(OwnCrop(1), OwnFlip())),
    "loss": BASE.replace(
        loss=own_loss, metrics=(Right(), "top5"), augment=(jt.augment.Crop(1), jt.augment.Flip())
    ),
}


def found(training, **options):
    return jt.find_tickets(NET, DATA, training, PRUNING, seeds=(0, 1), progress=False, **options)


@functools.cache
def runs_of(name=None):
    # devices that share batches change no loss, no metric and no image
    mesh = jt.parallel.mesh(2, data=2) if name == "loss" else None
    return found(OWN[name] if name else BASE, mesh=mesh)


def same(a, b, *, exact):
    chex.assert_trees_all_close(a, b, rtol=0 if exact else 0.0001, atol=0 if exact else 1e-06)


def values(table, metric):
    return table[table.metric == metric].value.to_numpy()


@pytest.mark.parametrize("name", OWN)
def test_own_settings_give_what_the_named_ones_give(name):
    """Two seeds side by side, trained, pruned, rewound to step 3 and trained again."""
    ours, named = runs_of(name), runs_of()
    for level in (0, 1):
        same(ours.by_level[level], named.by_level[level], exact=name == "augment")
    for metric in ("loss", "accuracy"):
        a, b = values(ours.table(), metric), values(named.table(), metric)
        assert len(a) == len(b) > 10
        np.testing.assert_allclose(a, b, rtol=0 if name == "augment" else 1e-4)
    assert np.ptp(values(named.table(), "loss")) > 0.1, "something was learned"


def test_own_metrics_have_rows_of_their_own():
    table = runs_of("loss").table()
    np.testing.assert_allclose(values(table, "right"), values(table, "accuracy"), rtol=1e-6)
    top = values(table, "top5")
    assert (top >= values(table, "right")).all() and (top < 1).any()
    assert set(runs_of().table().metric) == {"loss", "accuracy"}


def test_metrics_by_hand():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 10)).astype(np.float32), rng.integers(0, 10, 200)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    bins = np.ceil(p.max(1) * 15).astype(int)
    gaps = [(p.argmax(1) == labels)[bins == b].sum() - p.max(1)[bins == b].sum() for b in range(16)]
    expected = {
        "top5": (np.argsort(-p, axis=1)[:, :5] == labels[:, None]).any(1).mean(),
        "calibration_error": np.abs(gaps).sum() / 200,
        "brier": ((p - np.eye(10)[labels]) ** 2).sum(1).mean(),
        "perplexity": np.exp(-np.log(p[np.arange(200), labels]).mean()),
    }
    expected["ece"] = expected["calibration_error"]
    said, meant = np.eye(10)[p.argmax(1)], np.eye(10)[labels]
    expected["macro_f1"] = (2 * (said * meant).sum(0) / (said.sum(0) + meant.sum(0))).mean()
    # those of numbers are in test_tasks.py
    assert set(expected) | {"r2", "mae"} == set(jt.metrics.METRICS)
    halves = np.split(logits, 2), np.split(labels, 2)
    for name in expected:
        metric = jt.metrics.METRICS[name]
        halves = [
            metric.sums(logits[i : i + 100], jnp.asarray(labels[i : i + 100])) for i in (0, 100)
        ]
        np.testing.assert_allclose(metric.value(halves[0] + halves[1]), expected[name], rtol=1e-4)
        assert metric.name == name


@pytest.mark.parametrize("name", ["steps", "cosine", "linear"])
def test_a_dilated_schedule_is_stretched_in_time(name):
    """Rates of a schedule of optax and of the named one, undilated and three times as long."""
    named = jt.Training(steps=10, lr=0.4, schedule=name)
    if name == "steps":
        named = named.replace(milestones=(4,), gamma=0.5)
    own = {
        "steps": optax.piecewise_constant_schedule(0.4, {4: 0.5}),
        "cosine": optax.cosine_decay_schedule(0.4, 10),
        "linear": optax.linear_schedule(0.4, 0.0, 10),
    }[name]
    for factor in (1.0, 3.0):
        a, b = named.dilated(factor), jt.Training(steps=10, schedule=own).dilated(factor)
        for step in range(a.steps):
            rates = [learning_rate(schedule(t), jnp.int32(step), kind=t.schedule) for t in (a, b)]
            np.testing.assert_allclose(*rates, rtol=1e-5, atol=1e-7)


def test_branches_dilate_own_schedules():
    ours, named = (
        jt.branch(runs_of(name), "reinit", levels=[1], dilation=(1, 2), progress=False).table()
        for name in ("schedule", None)
    )
    pd.testing.assert_frame_equal(ours, named, rtol=1e-4)


def test_pruned_weights_stay_zero_under_any_optimizer():
    """Muon updates every weight, whatever its gradient."""
    own = lambda lr: optax.chain(optax.clip(1.0), optax.contrib.muon(lr))  # noqa: E731
    runs = found(jt.Training(steps=6, batch_size=16, optimizer=own, clip_norm=1.0))
    assert runs.table().value.notna().all() and (runs.table().diverged == -1).all()
    ticket = runs.by_level[1]
    zeros = jt.masks.map_with(lambda m, w: np.where(m, 0, w), ticket.mask, ticket.params)
    assert not any(x.any() for x in jax.tree.leaves(zeros))


def test_everything_at_once_is_resumed_and_guarded(tmp_path):
    """Own settings of all kinds, stopped in the middle and continued; and refused when changed."""
    own: dict[str, Any] = dict(
        optimizer=optax.adamw, schedule=optax.constant_schedule(0.01), loss=own_loss,
        augment=("flip", darker), metrics=(Right(),),
    )  # fmt: skip
    training = jt.Training(steps=60, batch_size=16, eval_every=2, **own)
    whole, folder = found(training), tmp_path / "run"
    handler = signal.signal(signal.SIGTERM, lambda *_: None)

    def stop():
        while not any(folder.glob("state/*")):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises((SystemExit, KeyboardInterrupt, RuntimeError)):
        found(training, folder=folder, save_every=0)
    stopper.join()
    signal.signal(signal.SIGTERM, handler)
    again = found(training, folder=folder)
    same(again.by_level, whole.by_level, exact=True)
    pd.testing.assert_frame_equal(again.table(), whole.table())
    others = {
        "optimizer": optax.lion,
        "schedule": optax.constant_schedule(0.02),
        "loss": lambda logits, labels: own_loss(logits, labels) ** 2,
        "augment": ("flip", lambda images, *, key: images),
        "metrics": ("top5",),
    }
    for field, other in others.items():
        with pytest.raises(RunFolderError, match=f"training.{field}"):
            found(training.replace(**{field: other}), folder=folder)


@dataclasses.dataclass
class Unhashable:
    name: str = "unhashable"

    def __call__(self, images, *, key=None):
        return images

    sums = value = __call__


WRONG = [
    ({"optimizer": "adan"}, "`optimizer` must be one of 'sgd'"),
    ({"optimizer": 3}, "`optimizer` must be one of .* or a function of the learning rate such as"),
    ({"optimizer": lambda lr: lr}, "`optimizer` .* must give an optax.GradientTransformation"),
    ({"optimizer": lambda lr: optax.inject_hyperparams(optax.adam)(lr)}, "does not use the learn"),
    (
        {"optimizer": lambda lr: optax.sgd(float(lr))},
        "`optimizer` .* fails when it is tried: ",
    ),
    ({"optimizer": optax.contrib.schedule_free_sgd}, "`optimizer` .* evaluates other weights than"),
    (
        {"optimizer": functools.partial(optax.noisy_sgd, key=1)},
        "`optimizer` .* keeps a random key, which would be the same",
    ),
    ({"optimizer": optax.sgd, "weight_decay": 0.1}, "`weight_decay` is used .* optimizer itself"),
    ({"optimizer": optax.sgd, "b1": 0.5}, "`b1` is used by optimizer='adam'"),
    ({"optimizer": optax.sgd(0.1), "lr": 0.1}, "`lr` is used by optimizers without a learning"),
    ({"optimizer": optax.sgd(0.1), "schedule": "cosine"}, "`schedule` is used by optimizers witho"),
    ({"schedule": optax.constant_schedule(0.1), "lr": 0.1}, "`lr` is used by schedule='steps'"),
    ({"schedule": optax.constant_schedule(0.1), "milestones": (3,)}, "`milestones` is used by sch"),
    ({"schedule": lambda step: jnp.ones(2)}, "`schedule` .* must give a learning rate, a number"),
    ({"schedule": 0.1}, "`schedule` must be one of .* or a function of the step .*, got 0.1"),
    ({"loss": "hinge"}, "`loss` must be one of 'cross_entropy', 'mse', .*, got 'hinge'"),
    ({"loss": "focal"}, r"`loss` must be one of .* an object such as jt.losses.Focal\(\)"),
    ({"metrics": ("ec",)}, "`metrics` 'ec' is unknown; did you mean 'ece'.* an object of your own"),
    ({"loss": lambda logits, labels: logits}, r"`loss` .* must give one number for each example"),
    (
        {"loss": own_loss, "label_smoothing": 0.1},
        "`label_smoothing` is used by loss=",
    ),
    ({"loss": Unhashable()}, "`loss` must be hashable, .* frozen dataclass"),
    ({"augment": (Unhashable(),)}, "`augment` must be hashable, .* frozen dataclass"),
    ({"augment": (jt.augment.Crop,)}, "`augment` holds the class Crop; pass an object of it"),
    ({"augment": (jt.augment.Crop(), "shift")}, "`augment` takes only one of"),
    ({"augment": (jt.augment.Flip(), "flip")}, "`augment` holds 'flip' more than once"),
    ({"augment": (jt.augment.Crop(9),)}, "`augment` with pixels 9 can move images"),
    ({"augment": (3,)}, "`augment` must be names, and objects that are called"),
    (
        {"augment": (lambda images, *, key: images[0],)},
        "`augment` .* must return images of the",
    ),
    ({"augment": (jt.augment.Crop(2),), "augment_pixels": 2}, "`augment_pixels` is used by"),
    ({"metrics": (Unhashable(),)}, "`metrics` must be hashable"),
    ({"metrics": (own_loss,)}, "`metrics` must be names, and objects with a text `name`"),
    ({"metrics": ("top5", jt.metrics.TopK(5))}, "`metrics` needs names that differ.* 'top5' more"),
    ({"metrics": ("top",)}, "`metrics` 'top' is unknown; did you mean 'top5'"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_settings_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        found(jt.Training(steps=4, batch_size=8, **changes))
