"""The networks of the sources: counts, layers, shapes, taps, initialization, errors, training."""

import dataclasses
import functools
import json
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trees

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine.metrics import computed
from jaxticket.nn import is_junction

nets = jt.networks


@functools.cache
def built(name, *args, **options):
    """A network of the table, with shapes of its params and statistics."""
    net = jt.NETWORKS[name](*args, **options)
    return net, *net.shapes


def leaves(tree):
    return dict(zip(trees.paths(tree), jax.tree.leaves(tree), strict=True))


def natural(path):
    return [(piece.isdigit(), int(piece) if piece.isdigit() else piece)
            for piece in re.findall(r"\d+|\D+", path)]  # fmt: skip


def kernels(name, *args, **options):
    """Sizes of the kernels, in the natural order of their names."""
    _, params, _ = built(name, *args, **options)
    sizes = {p: math.prod(x.shape) for p, x in leaves(params).items() if p.endswith("/kernel")}
    return {path: sizes[path] for path in sorted(sizes, key=natural)}


TINY, CIFAR = (64, 64, 3), (32, 32, 3)
# every row of the reference: prunable weights, all parameters
COUNTS = [
    ("lenet", {}, 266_200, 266_610),
    ("conv2", {}, 4_300_992, 4_301_642),
    ("conv4", {}, 2_425_024, 2_425_930),
    ("conv6", {}, 2_261_184, 2_262_602),
    ("conv8", {}, 5_275_840, 5_278_282),
    ("resnet14", {}, 174_128, 175_258),
    ("resnet20", {}, 270_896, 272_474),
    ("resnet20", {"shortcut": "padding"}, 268_336, 269_722),
    ("resnet20", {"classes": 100}, 276_656, 278_324),
    ("resnet32", {}, 464_432, 466_906),
    ("wrn32_2", {}, 1_855_584, 1_860_522),
    ("wrn14_8", {}, 11_084_160, 11_093_130),
    ("wrn14_10", {}, 17_316_320, 17_327_530),
    ("wrn20_8", {}, 17_277_312, 17_289_866),
    ("wrn16_4", {}, 2_745_264, 2_748_890),
    ("wrn22_2", {}, 1_076_912, 1_079_642),
    ("vgg11", {}, 9_222_848, 9_231_114),
    ("vgg13", {}, 9_407_168, 9_416_010),
    ("vgg16", {}, 14_715_584, 14_728_266),
    ("vgg16", {"bias": False}, 14_715_584, 14_724_042),
    ("vgg19", {}, 20_024_000, 20_040_522),
    # one layer of 512 x 512 weights and 512 biases more than VGG-16
    ("vgg2_16", {}, 14_715_584 + 262_144, 14_728_266 + 262_656),
    ("vgg19_one_ticket", {}, 20_024_000, 20_040_522),
    # the list of filters as printed: one convolution of 512 to 512 channels more
    ("vgg19_one_ticket", {"depth": 20}, 22_383_296, 22_401_354),
    ("resnet18", {"shape": TINY, "classes": 200, "stem": "small"}, 11_261_632, 11_271_432),
    ("resnet18", {"shape": CIFAR, "classes": 10, "stem": "small"}, 11_164_352, 11_173_962),
    ("resnet18", {}, 11_678_912, 11_689_512),
    ("resnet50", {}, 25_502_912, 25_557_032),
    ("inception_v3", {"auxiliary": True}, 27_123_040, 27_161_264),
    ("inception_v3", {}, 23_799_136, 23_834_568),
]


@pytest.mark.parametrize(
    "name, options, prunable, total",
    COUNTS,
    ids=[f"{name}-{'-'.join(options)}".strip("-") for name, options, *_ in COUNTS],
)
def test_counts_of_the_sources(name, options, prunable, total):
    net, params, stats = built(name, **options)
    assert masks.prunable_size(net.mask()) == prunable
    assert trees.size(params) == total
    # the output layer exists and ends in the classes
    assert leaves(params)[f"{net.output}/kernel"].shape[-1] == net.classes
    assert net.syncs_stats
    scales = sum(p.endswith("scale") for p in leaves(params))
    assert len(jax.tree.leaves(stats)) == 2 * scales


def test_every_network_of_the_table_has_its_count():
    """ResNet-44, 56 and 110 are in no table of the sources; their blocks add what is expected."""
    deeper = {"resnet44", "resnet56", "resnet110"}
    assert {name for name, *_ in COUNTS} | deeper == set(jt.NETWORKS)
    for name, n in (("resnet44", 7), ("resnet56", 9), ("resnet110", 18)):
        net, *_ = built(name)
        blocks = (n - 3) * 2 * (2_304 + 9_216 + 36_864)
        count = masks.prunable_size(net.mask())
        assert count == 270_896 + blocks


def test_inception_affine_total_and_head():
    _, params, _ = built("inception_v3", auxiliary=True)
    affine = sum(x.size for p, x in leaves(params).items() if "/norm/" in p)
    # 36,224 is printed for the network with its head
    assert affine == 36_224
    modules: dict[str, int] = {}
    for path, size in kernels("inception_v3", auxiliary=True).items():
        module = "auxiliary/dense" if path == "auxiliary/dense/kernel" else path.split("/")[0]
        modules[module] = modules.get(module, 0) + size
    assert modules == {
        "auxiliary": 2_555_904,
        "auxiliary/dense": 768_000,
        "block_0": 171_872,
        "block_5b": 254_976,
        "block_5c": 276_480,
        "block_5d": 284_160,
        "block_6a": 1_152_000,
        "block_6b": 1_294_336,
        "block_6c": 1_687_552,
        "block_6d": 1_687_552,
        "block_6e": 2_138_112,
        "block_7a": 1_695_744,
        "block_7b": 5_038_080,
        "block_7c": 6_070_272,
        "dense": 2_048_000,
    }


CONV = [1_728, 36_864, 73_728, 147_456, 294_912, 589_824, 1_179_648, 2_359_296]
R20 = [
    432, *[2_304] * 6, 4_608, 9_216, 512, *[9_216] * 4, 18_432, 36_864, 2_048, *[36_864] * 4, 640,
]  # fmt: skip
R18 = [1_728, *[36_864] * 4]
for _first, _other, _shortcut in (
    (73_728, 147_456, 8_192),
    (294_912, 589_824, 32_768),
    (1_179_648, 2_359_296, 131_072),
):
    R18 += [_first, _other, _shortcut, _other, _other]
R50 = [9_408]
for _blocks, _block0, _block in (
    (3, [4_096, 36_864, 16_384, 16_384], [16_384, 36_864, 16_384]),
    (4, [32_768, 147_456, 65_536, 131_072], [65_536, 147_456, 65_536]),
    (6, [131_072, 589_824, 262_144, 524_288], [262_144, 589_824, 262_144]),
    (3, [524_288, 2_359_296, 1_048_576, 2_097_152], [1_048_576, 2_359_296, 1_048_576]),
):
    R50 += _block0 + _block * (_blocks - 1)
TABLES: list[tuple[str, dict[str, Any], list[int]]] = [
    ("conv2", {}, [*CONV[:2], 4_194_304, 65_536, 2_560]),
    ("conv4", {}, [*CONV[:4], 2_097_152, 65_536, 2_560]),
    ("conv6", {}, [*CONV[:6], 1_048_576, 65_536, 2_560]),
    ("conv8", {}, [*CONV[:8], 524_288, 65_536, 2_560]),
    ("vgg11", {}, [1_728, 73_728, 294_912, 589_824, 1_179_648, *[2_359_296] * 3, 5_120]),
    ("vgg13", {}, [*CONV[:7], *[2_359_296] * 3, 5_120]),
    ("vgg16", {}, [*CONV[:5], *[589_824] * 2, 1_179_648, *[2_359_296] * 5, 5_120]),
    ("vgg19", {}, [*CONV[:5], *[589_824] * 3, 1_179_648, *[2_359_296] * 7, 5_120]),
    ("resnet20", {}, R20),
    ("resnet18", {"shape": CIFAR, "classes": 10, "stem": "small"}, [*R18, 5_120]),
    ("resnet50", {}, [*R50, 2_048_000]),
]


@pytest.mark.parametrize("name, options, table", TABLES, ids=[name for name, *_ in TABLES])
def test_layer_tables_in_natural_order(name, options, table):
    assert list(kernels(name, **options).values()) == table


# a narrow network of each family, and small images
FAMILIES: dict[str, Any] = {
    "conv": functools.partial(nets.conv, (4, 4, 1), 3, 4, width=0.1),
    "vgg": functools.partial(nets.vgg, (16, 16, 1), 3, 11, width=0.1),
    "resnet_cifar": functools.partial(nets.resnet_cifar, (8, 8, 1), 3, 8, width=0.3),
    "wide_resnet": functools.partial(nets.wide_resnet, (8, 8, 1), 3, 10, width=0.3),
    "resnet18": functools.partial(nets.resnet18, (8, 8, 1), 3, stem="small", width=0.1),
    "resnet50": functools.partial(nets.resnet50, (32, 32, 1), 3, width=0.05),
    "inception_v3": functools.partial(nets.inception_v3, (75, 75, 1), 3, width=0.05),
}
quick_family = pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("resnet50", "inception_v3") else [])
        for name in FAMILIES
    ],
)


def drawn(net, *, replicas=(), seed=5):
    """Params and statistics from NumPy, without compiling a network's many draws."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        shape = (*replicas, *leaf.shape)
        if path.endswith("kernel"):
            return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), shape).astype(np.float32)
        positive = path.endswith(("scale", "var"))
        low, high = (0.5, 1.5) if positive else (-0.1, 0.1)
        return rng.uniform(low, high, shape).astype(np.float32)

    def tree(shapes):
        values = [draw(*item) for item in leaves(shapes).items()]
        return jax.tree.unflatten(jax.tree.structure(shapes), values)

    params, stats = net.shapes
    return tree(params), tree(stats)


def traced(net, *, train=True, dtype=jnp.float32, tap=None):
    """The jaxpr of a forward pass and the shapes of (logits, stats)."""
    params, stats = net.shapes
    params = jax.eval_shape(lambda params: computed(net, params, str(jnp.dtype(dtype))), params)
    x = jax.ShapeDtypeStruct((2, *net.shape), dtype)
    run = lambda p, s, x: net.apply(p, s, x, train=train, tap=tap)  # noqa: E731
    jaxpr, out = jax.make_jaxpr(run, return_shape=True)(params, stats, x)
    return str(jaxpr), out


@quick_family
def test_taps_are_the_layers_and_the_junctions(family):
    net, seen = FAMILIES[family](), {}

    def tap(name, x):
        assert name not in seen
        seen[name] = x
        return x

    with_taps, (logits, _) = traced(net, tap=tap)
    without, _ = traced(net)
    assert with_taps == without, "taps that return what they see change nothing"
    params, _ = net.shapes
    layers = {p.removesuffix("/kernel") for p in leaves(params) if p.endswith("/kernel")}
    assert layers <= set(seen)
    others = set(seen) - layers
    if family in ("conv", "vgg"):
        assert not others and all(map(is_junction, seen))
    else:
        assert all(is_junction(n) or "norm" in n for n in others) and others
    assert list(seen)[-1] == net.output and seen[net.output].shape == logits.shape
    # natural order is the order of the forward pass, where layers do not run side by side
    chain = [name for name in seen if is_junction(name) and name != "norm"]
    assert chain == sorted(chain, key=natural) and len(chain) > 2


@pytest.mark.parametrize(
    "family",
    [
        "resnet_cifar",
        pytest.param("wide_resnet", marks=pytest.mark.slow),
        pytest.param("inception_v3", marks=pytest.mark.slow),
    ],
)
def test_all_paths_meet_at_junctions_and_only_there(family):
    """Replacing a junction by zeros cuts the image off from the logits; an inner layer does not."""
    net = FAMILIES[family](norm="none")
    params, stats = drawn(net)
    names: list[str] = []

    def note(name, x):
        names.append(name)
        return x

    traced(net, tap=note)

    @jax.jit
    def cut(at, x):
        def tap(name, value):
            return jnp.where(at == names.index(name), jnp.zeros((), value.dtype), value)

        # ReLU dies easily in narrow networks: the pre-activations of untrained ones are shifted
        shifted = jax.tree.map(lambda v: v + jnp.asarray(0.05, v.dtype), params)
        return net.apply(shifted, stats, x, train=False, tap=tap)[0]

    x = jax.random.normal(jax.random.key(1), (2, *net.shape))
    for i, name in enumerate(names):
        logits = np.asarray(cut(i, x))
        same = bool((logits[0] == logits[1]).all())
        # a chain inside a block: Inception's stem, what pre-activation does before its projections
        chained = name.startswith("block_0/") or name.endswith("_0/norm_0")
        assert same == (is_junction(name) or chained), name


def test_inception_has_the_maps_of_the_paper():
    net, seen = nets.inception_v3(), {}

    def tap(name, x):
        seen[name] = x.shape[1:]
        return x

    traced(net, train=False, tap=tap)
    junctions = {name: shape for name, shape in seen.items() if is_junction(name)}
    assert junctions == {
        "block_0": (35, 35, 192),
        "block_5b": (35, 35, 256),
        "block_5c": (35, 35, 288),
        "block_5d": (35, 35, 288),
        "block_6a": (17, 17, 768),
        **{f"block_6{letter}": (17, 17, 768) for letter in "bcde"},
        "block_7a": (8, 8, 1280),
        "block_7b": (8, 8, 2048),
        "block_7c": (8, 8, 2048),
        "dense": (1000,),
    }
    assert seen["block_0/conv_0_0"] == (149, 149, 32)
    assert seen["block_0/conv_0_4"] == (71, 71, 192)


@pytest.mark.slow
def test_the_auxiliary_head_speaks_through_its_tap():
    make = functools.partial(nets.inception_v3, (299, 299, 3), 7, width=0.05)
    plain, head = make(), make(auxiliary=True)
    assert plain != head
    seen: dict[str, Any] = {}

    def tap(name, x):
        seen[name] = x
        return x

    _, (logits, _) = traced(head, tap=tap)
    assert logits.shape == (2, 7) and seen["auxiliary/dense"].shape == (2, 7)
    assert seen["auxiliary/dense"] is not seen["dense"]
    assert not is_junction("auxiliary/dense")
    # a map of one pixel is left before the head's last layer
    assert seen["auxiliary/conv_0"].shape[1:3] == (5, 5)
    assert seen["auxiliary/conv_1"].shape[1:3] == (1, 1)
    ours = {p: x.shape for p, x in leaves(jax.eval_shape(plain.init, jax.random.key(0))[0]).items()}
    theirs = leaves(jax.eval_shape(head.init, jax.random.key(0))[0])
    assert ours == {p: x.shape for p, x in theirs.items() if not p.startswith("auxiliary/")}


@pytest.mark.parametrize("norm", nets.NORMS)
@quick_family
def test_activations_follow_the_dtype_of_the_images(family, norm):
    net, seen = FAMILIES[family](norm=norm), []

    def tap(name, x):
        seen.append(x.dtype)
        return x

    # as the trainer does it: weights and images in bfloat16, norms and statistics in float32
    _, (logits, stats) = traced(net, dtype=jnp.bfloat16, tap=tap)
    assert logits.dtype == jnp.bfloat16 and set(seen) == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(stats)} <= {jnp.dtype(jnp.float32)}
    params, stats = net.shapes
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    assert bool(jax.tree.leaves(stats)) == (norm == "batch")
    scales = [p for p in leaves(params) if p.endswith("/scale")]
    assert bool(scales) == (norm != "none")
    convolutions = {p.removesuffix("/kernel") for p, x in leaves(params).items() if x.ndim == 4}
    biased = {layer for layer in convolutions if f"{layer}/bias" in leaves(params)}
    assert biased == (convolutions if norm == "none" or family == "vgg" else set())


@pytest.mark.parametrize(
    "name, options, least",
    [
        ("conv2", {}, 2),
        ("conv8", {}, 16),
        ("vgg11", {}, 16),
        ("vgg11", {"last_pool": "max"}, 32),
        ("resnet14", {}, 4),
        ("wrn16_4", {}, 4),
        ("resnet18", {}, 32),
        ("resnet18", {"stem": "small"}, 8),
        pytest.param("inception_v3", {}, 75, marks=pytest.mark.slow),
        pytest.param("inception_v3", {"auxiliary": True}, 299, marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_the_least_image_fits_and_no_smaller_one(name, options, least):
    make = functools.partial(jt.NETWORKS[name], classes=3, width=0.1, **options)
    seen: dict[str, Any] = {}

    def tap(name, x):
        seen[name] = x.shape
        return x

    traced(make((least, least + 1, 1)), tap=tap)
    assert min(min(shape) for shape in seen.values()) >= 1
    for small in ((least - 1, 400, 1), (400, least - 1, 1)):
        with pytest.raises(ValueError, match=rf"`shape`: .* at least {least} x {least} pixels"):
            make(small)


@pytest.mark.parametrize("name", ["conv4", "resnet20", "vgg16", "resnet18", "wrn16_4"])
def test_grey_images_of_mnist_size(name):
    options = {"stem": "small"} if name == "resnet18" else {}
    net, params, _ = built(name, (28, 28, 1), 10, **options)
    first = leaves(params)["conv_0/kernel" if name in ("conv4", "vgg16") else "block_0/kernel"]
    assert first.shape[2] == 1 and net.classes == 10 and net.shape == (28, 28, 1)


def test_a_last_max_pool_changes_no_count_at_32_pixels():
    assert kernels("vgg16") == kernels("vgg16", last_pool="max")
    make = functools.partial(nets.vgg, (32, 32, 1), 3, 11, width=0.1)
    average, most = make(last_pool="average"), make(last_pool="max")
    assert average != most and traced(average)[0] != traced(most)[0]


@quick_family
def test_equal_networks_are_equal_and_resized_ones_are_wider(family):
    make = FAMILIES[family]
    net = make()
    assert net == make() and hash(net) == hash(make())
    width = make.keywords["width"]
    assert net == make(width=float(width))
    others = [
        make(width=2 * width),
        make(norm="group"),
        make(init="orthogonal"),
        make(scale="ones" if json.loads(net.config)["scale"] == "uniform" else "uniform"),
    ]
    assert len({net, *others}) == 5
    assert net.resized(2) == make(width=2 * width)
    assert net.resized(2).resized(0.5) == net
    config = json.loads(net.config)
    assert config["constructor"] == ("resnet" if family.startswith("resnet1") or "50" in family
                                     else family)  # fmt: skip
    assert config["width"] == width and config["classes"] == 3
    # the config holds all that it takes to build the network again
    rebuild = getattr(nets, config.pop("constructor"))
    assert rebuild(tuple(config.pop("shape")), **config) == net


def test_names_of_the_table_record_their_constructor():
    net, *_ = built("wrn14_8")
    assert json.loads(net.config) == {
        "constructor": "resnet_cifar",
        "shape": [32, 32, 3],
        "classes": 10,
        "depth": 14,
        "width": 8.0,
        "norm": "batch",
        "shortcut": "projection",
        "init": "kaiming_normal",
        "scale": "uniform",
    }
    assert net == nets.resnet_cifar(depth=14, width=8) == nets.resnet14(width=8)
    one_ticket, *_ = built("vgg19_one_ticket")
    config = json.loads(one_ticket.config)
    assert (config["init"], config["scale"], config["bias"]) == ("xavier_normal", "ones", True)
    assert config["last_pool"] == "average" and config["depth"] == 19
    assert {name for name in jt.NETWORKS if not callable(getattr(nets, name))} == set()


def test_widths_are_rounded_and_at_least_one():
    sizes = kernels("resnet14", width=0.01)
    assert sizes["block_0/kernel"] == 27 and sizes["block_3_1/conv_1/kernel"] == 9
    assert kernels("resnet14", width=0.6)["block_0/kernel"] == 27 * 10  # 9.6
    hidden = leaves(built("vgg2_16", width=0.25)[1])["dense_0/kernel"]
    assert hidden.shape == (128, 128)
    stem = leaves(built("wrn16_4", width=0.25)[1])
    assert stem["block_0/kernel"].shape[-1] == 16
    assert stem["block_1_0/conv_0/kernel"].shape[-1] == 4


BAD = [
    ("conv", {"depth": 3}, r"`depth` must be one of 2, 4, 6, 8, got 3"),
    ("vgg", {"depth": 12}, r"`depth` must be one of 11, 13, 16, 19, 20, got 12"),
    ("vgg", {"dense": -1}, r"`dense` must be a whole number of at least 0, got -1"),
    ("vgg", {"last_pool": "mean"}, r"`last_pool` must be one of 'average', 'max', got 'mean'"),
    ("resnet_cifar", {"depth": 18}, r"`depth` must be 6n \+ 2, such as 8, 14, .*, got 18"),
    ("resnet_cifar", {"depth": 2}, r"`depth` must be 6n \+ 2"),
    ("resnet_cifar", {"depth": 20.0}, r"`depth` must be 6n \+ 2"),
    ("wide_resnet", {"depth": 14}, r"`depth` must be 6n \+ 4, such as 10, 16, .*, got 14"),
    ("wide_resnet", {"depth": "16"}, r"`depth` must be 6n \+ 4"),
    ("resnet", {"depth": 20}, r"`depth` must be one of 18, 50, got 20"),
    ("resnet", {"stem": "cifar"}, r"`stem` must be one of 'imagenet', 'small', got 'cifar'"),
    ("resnet", {"shortcut": "A"}, r"`shortcut` must be one of 'projection', 'padding', got 'A'"),
    ("resnet_cifar", {"shortcut": "none"}, r"`shortcut` must be one of 'projection', 'padding'"),
]
CONSTRUCTORS = ("conv", "vgg", "resnet_cifar", "wide_resnet", "resnet", "inception_v3")
for _name in CONSTRUCTORS:
    BAD += [
        (_name, {"norm": "layer"}, r"`norm` must be one of 'batch', 'group', 'none', got 'layer'"),
        (_name, {"scale": "zeros"}, r"`scale` must be one of 'ones', 'uniform', got 'zeros'"),
        (_name, {"init": "kaiming"}, r"`init` is unknown: 'kaiming'; did you mean 'kaiming_normal"),
        (_name, {"width": 0}, r"`width` must be a finite number above 0, got 0"),
        (_name, {"width": math.nan}, r"`width` must be a finite number above 0, got nan"),
        (_name, {"classes": 0}, r"`classes` must be a whole number of at least 1, got 0"),
        (_name, {"shape": (3072,)}, r"`shape` must be the shape of one image .* got \(3072,\)"),
        (_name, {"shape": (32, 32)}, r"`shape` must be the shape of one image"),
        (_name, {"shape": (32, 32, 0)}, r"`shape` must be the shape of one image"),
    ]


@pytest.mark.parametrize("name, options, message", BAD)
def test_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(nets, name)(**options)


@pytest.mark.parametrize("factor", [0, -1, math.inf])
def test_errors_of_resized(factor):
    with pytest.raises(ValueError, match="`width` must be a finite number above 0"):
        built("resnet14")[0].resized(factor)


@pytest.mark.parametrize("init", nets.INITIALIZERS)
def test_initializers_by_name(init):
    for shape, fan_in, fan_out in (
        ((3, 3, 16, 64), 144, 576),
        ((3, 3, 16, 200), 144, 1800),
        ((128, 32), 128, 32),
    ):
        kernel = nets.INITIALIZERS[init](jax.random.key(3), shape, jnp.float32)
        assert kernel.dtype == jnp.float32 and kernel.shape == shape
        kernel = np.asarray(kernel, np.float64)
        if init == "orthogonal":
            flat = kernel.reshape(-1, shape[-1])
            flat = flat if len(flat) >= shape[-1] else flat.T
            np.testing.assert_allclose(flat.T @ flat, np.eye(flat.shape[1]), atol=1e-5)
            assert (flat.diagonal() < 0).any() and (flat.diagonal() > 0).any()
            continue
        variance = {
            "kaiming_normal": 2 / fan_in,
            "kaiming_normal_fan_out": 2 / fan_out,
            "signed_constant": 2 / fan_in,
        }.get(init, 2 / (fan_in + fan_out))
        kernel = kernel / np.sqrt(variance)
        # 5 sigma of an estimate of the deviation of n normal numbers
        assert abs(kernel.std() - 1) < 5 / np.sqrt(2 * kernel.size)
        assert abs(kernel.mean()) < 5 / np.sqrt(kernel.size)
        if init == "signed_constant":
            np.testing.assert_allclose(np.abs(kernel), 1, rtol=1e-6)
        else:
            assert 3 < np.abs(kernel).max() < 6, "not truncated"


@pytest.mark.parametrize("init", [n for n in nets.INITIALIZERS if n != "signed_constant"])
def test_initializers_refuse_what_is_no_kernel(init):
    with pytest.raises(ValueError, match=r"`shape` of a kernel must have two dimensions or more"):
        nets.INITIALIZERS[init](jax.random.key(0), (3,))


def test_numbers_drawn_flat_are_the_same_numbers():
    """What makes initialization quick to compile does not change it."""
    shape = (3, 2, 4, 5)
    expected = jax.random.normal(jax.random.key(3), shape) * jnp.sqrt(jnp.float32(2 / 24))
    kernel = nets.INITIALIZERS["kaiming_normal"](jax.random.key(3), shape)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


def started(net):
    return leaves(jax.jit(net.init)(jax.random.key(3))[0])


def test_every_kernel_starts_from_the_named_initializer_and_its_own_numbers():
    params = started(nets.conv((4, 4, 3), 10, 2, width=0.25, init="signed_constant"))
    assert sum(p.endswith("kernel") for p in params) == 5
    for path, value in params.items():
        if path.endswith("bias"):
            assert not np.asarray(value).any()
        else:
            size = np.sqrt(2 / math.prod(value.shape[:-1]))
            np.testing.assert_allclose(np.abs(value), size, rtol=1e-6)
    a, b = params["dense_0/kernel"], params["dense_1/kernel"]
    assert a.shape == b.shape == (64, 64) and not np.array_equal(np.sign(a), np.sign(b))


def constant(key, shape, dtype=jnp.float32):
    del key
    return jnp.full(shape, 0.25, dtype)


def test_an_initializer_may_be_a_function():
    net = nets.resnet_cifar((4, 4, 1), 2, 8, width=0.1, init=constant)
    assert json.loads(net.config)["init"].endswith("test_zoo.constant")
    assert net == nets.resnet_cifar((4, 4, 1), 2, 8, width=0.1, init=constant)
    assert net.resized(2) == nets.resnet_cifar((4, 4, 1), 2, 8, width=0.2, init=constant)
    assert all((x == 0.25).all() for p, x in started(net).items() if p.endswith("kernel"))


def test_scales_start_uniform_or_at_one():
    make = functools.partial(nets.conv, (4, 4, 1), 2, 2, width=2, norm="batch", init=constant)
    params = started(make(scale="uniform"))
    scales = np.concatenate([x for p, x in params.items() if p.endswith("scale")])
    # 256 numbers from U[0, 1], whose deviation is 1 / sqrt(12)
    assert scales.size == 256 and scales.min() >= 0 and scales.max() <= 1
    assert abs(scales.mean() - 0.5) < 5 / np.sqrt(12 * scales.size) and scales.std() > 0.2
    assert not any(np.asarray(x).any() for p, x in params.items() if p.endswith("bias"))
    for norm in ("batch", "group"):
        ones = started(make(scale="ones", norm=norm))
        assert sum(p.endswith("scale") and bool((x == 1).all()) for p, x in ones.items()) == 2


def test_group_normalisation_has_groups_of_four_channels_and_more():
    net = nets.conv((4, 4, 1), 2, 2, width=0.125, norm="group", init=constant)
    params, stats = jax.jit(net.init)(jax.random.key(0))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 8)).astype(np.float32)
    params["conv_0"]["kernel"] = kernel
    x = np.random.default_rng(1).normal(size=(2, 4, 4, 1)).astype(np.float32)
    seen: dict[str, Any] = {}

    def tap(name, value):
        seen[name] = np.asarray(value)
        return value

    net.apply(params, stats, x, train=True, tap=tap)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2)
    )
    y = np.einsum("bhwcij,ijco->bhwo", windows, kernel).reshape(2, 4, 4, 2, 4)
    mean, var = y.mean((1, 2, 4), keepdims=True), y.var((1, 2, 4), keepdims=True)
    expected = np.maximum((y - mean) / np.sqrt(var + 1e-5), 0).reshape(2, 4, 4, 8)
    np.testing.assert_allclose(seen["conv_0"], expected, rtol=1e-4, atol=1e-5)


def on_two_devices(net):
    """The forward pass in training, over a data axis of two."""
    mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    P = jax.P

    def run(params, stats, x):
        return net.apply(params, stats, x, train=True, axis_name="data")

    return jax.shard_map(run, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=(P("data"), P()))


def test_half_batches_on_two_devices_give_the_statistics_of_the_whole():
    net = FAMILIES["resnet_cifar"]()
    params, stats = drawn(net)
    x = np.random.default_rng(1).normal(size=(8, *net.shape)).astype(np.float32)
    # unlike halves, so that statistics of one half would be wrong
    x[:4] += 2
    x[4:] -= 1
    logits, after = jax.jit(on_two_devices(net))(params, stats, x)
    expected, whole = jax.jit(functools.partial(net.apply, train=True))(params, stats, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    for path, value in leaves(after).items():
        np.testing.assert_allclose(value, leaves(whole)[path], rtol=1e-4, atol=1e-5, err_msg=path)
    # the stem, two layers in each of three blocks, two shortcuts
    assert len(leaves(after)) == 2 * 9


@quick_family
def test_the_axis_name_reaches_every_normalisation(family):
    """Statistics that differ between devices cannot leave as one: tracing would be refused."""
    net = FAMILIES[family](norm="batch")
    params, stats = net.shapes
    x = jax.ShapeDtypeStruct((4, *net.shape), jnp.float32)
    _, after = jax.eval_shape(on_two_devices(net), params, stats, x)
    assert jax.tree.structure(after) == jax.tree.structure(stats) and jax.tree.leaves(after)

    def deaf(params, stats, x, *, train, axis_name):
        del axis_name
        return net.apply(params, stats, x, train=train)

    with pytest.raises(ValueError, match=r"varying|replicat"):
        jax.eval_shape(on_two_devices(dataclasses.replace(net, apply=deaf)), params, stats, x)


def check_training(net, *, steps=3):
    """Two replicas of unlike weights, trained by one vmapped program."""
    x = jax.random.normal(jax.random.key(9), (2, 6, *net.shape))
    y = jnp.arange(6) % net.classes

    def loss(params, stats, x):
        logits, stats = net.apply(params, stats, x, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), stats

    @jax.jit
    @jax.vmap
    def step(params, stats, x):
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, x)
        # so long a step that a linear loss would fall by 1%: no network overshoots
        rate = 0.01 * value / optax.tree.vdot(grads, grads)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), stats, value, grads

    params, before = drawn(net, replicas=(2,))
    stats, losses, grads = before, [], {}
    for _ in range(steps):
        params, stats, value, grads = step(params, stats, x)
        losses.append(np.asarray(value))
    losses = np.stack(losses)
    assert np.isfinite(losses).all() and (np.diff(losses, axis=0) < 0).all(), losses
    assert not np.allclose(losses[:, 0], losses[:, 1])
    moved = jax.tree.map(lambda new, old: new - old, stats, before)
    for path, value in {**leaves(grads), **leaves(moved)}.items():
        value = np.asarray(value).reshape(2, -1)
        assert np.isfinite(value).all(), path
        if not path.endswith("bias"):  # BatchNorm cancels a bias before it
            assert value.any(1).all(), path


@pytest.mark.parametrize(
    "family",
    # the others take 10 s and more to compile
    [
        n if n in ("conv", "resnet_cifar") else pytest.param(n, marks=[pytest.mark.slow])
        for n in FAMILIES
    ],
)
def test_narrow_networks_train_under_vmap(family):
    check_training(FAMILIES[family]())


NARROW = {"conv": 0.2, "vgg": 0.15, "resnet": 0.3, "wrn": 0.3, "inception": 0.08}


@pytest.mark.slow
@pytest.mark.parametrize("name", jt.NETWORKS)
def test_every_network_of_the_table_trains_under_vmap(name):
    if name == "lenet":
        net = nets.lenet((4, 4, 1), 3, (12, 8))
    elif name in ("resnet18", "resnet50"):
        net = jt.NETWORKS[name]((32, 32, 3), 3, width=0.1)
    else:
        width = next(w for start, w in NARROW.items() if name.startswith(start))
        size = 75 if name == "inception_v3" else 16
        net = jt.NETWORKS[name]((size, size, 3), 3, width=width)
    check_training(net)
