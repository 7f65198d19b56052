"""What tests look at in trees of arrays."""

import jax


def leaves(tree):
    """The leaves by their paths, which are joined by "/"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def paths(tree):
    """The path of every leaf, in the order of `jax.tree.leaves`."""
    return list(leaves(tree))


def size(tree):
    """The number of entries of all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
