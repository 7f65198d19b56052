"""Networks of every family, and tickets of random weights with units that are dead."""

import jax
import numpy as np

import jaxticket as jt
from jaxticket import masks

IMAGE = (8, 8, 3)
NETWORKS = {
    "lenet": lambda: jt.networks.lenet((4, 4, 1), 5, widths=(12, 9)),
    "conv2": lambda: jt.networks.conv2(IMAGE, 4, width=0.1),
    "conv2_batch": lambda: jt.networks.conv2(IMAGE, 4, width=0.1, norm="batch"),
    "vgg11": lambda: jt.networks.vgg11((16, 16, 3), 4, width=0.04, dense=1),
    "resnet8": lambda: jt.networks.resnet_cifar(IMAGE, 4, depth=8, width=0.5),
    "resnet8_padding": lambda: jt.networks.resnet_cifar(
        IMAGE, 4, depth=8, width=0.5, shortcut="padding"
    ),
    "resnet8_bias": lambda: jt.networks.resnet_cifar(IMAGE, 4, depth=8, width=0.5, norm="none"),
    "wide": lambda: jt.networks.wide_resnet(IMAGE, 4, depth=10, width=0.4),
    "bottleneck": lambda: jt.networks.resnet(IMAGE, 4, depth=50, stem="small", width=0.06),
}


def random_ticket(net, density, seed=0, *, dead=0.4):
    """Random weights, statistics and masks; a share of the units gets no weights, or feeds none."""
    rng = np.random.default_rng(seed)

    def drawn(path, like):
        leaf, noise = path[-1].key, 0.3 * rng.normal(size=like.shape)
        if leaf == "kernel":
            noise *= 5 / np.sqrt(np.prod(like.shape[:-1]))
        drawn = np.array(noise + (leaf in ("scale", "var")), like.dtype)
        return drawn.clip(0.1) if leaf == "var" else drawn

    params, stats = jax.tree_util.tree_map_with_path(drawn, net.shapes)
    mask = jax.tree.map(lambda m: rng.uniform(size=m.shape) < density, net.mask())
    for _, m in masks.items(mask):
        if m.shape[-1] > 5:
            m[..., rng.uniform(size=m.shape[-1]) < dead] = False
        m[..., rng.uniform(size=m.shape[-2]) < dead / 2, :] = False
    zero = np.int32(0)
    return jt.Ticket(mask, params, stats, zero, zero).masked()


def logits(net, ticket, x):
    run = jax.jit(lambda p, s, x: net.apply(p, s, x, train=False)[0])
    return np.asarray(run(ticket.params, ticket.stats, x))
