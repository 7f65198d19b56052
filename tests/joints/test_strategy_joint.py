"""Ways to find masks take the user's own: each as code of a user would bring it, compared with the
built-in that it repeats.
"""

import dataclasses

import jax
import numpy as np
import pytest
from few_digits import DATA

import jaxticket as jt
from jaxticket.random import stream
from jaxticket.sparsify import (
    AtStep,
    Found,
    Stage,
    Strategy,
    dense_ticket,
    of_dense,
    of_training,
    run_strategy,
    trained_weights,
    weights_of,
)

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(8,))
TRAINING = jt.Training(
    steps=8, batch_size=16, optimizer="momentum", lr=0.1, eval_every=8, eval_batch_size=48
)
USUAL = {"seeds": (0, 1), "progress": False}


# --- what a user brings


def best(scores, density, mask=None):
    """The masks of all seeds that keep the weights with the highest scores."""
    mask = jax.tree.map(lambda s: np.ones(s.shape, bool), scores) if mask is None else mask
    one = jax.tree.map(lambda s: s[0], scores)
    keep = round(density * jt.masks.prunable_size(one))
    return jax.tree.map(np.asarray, jax.vmap(lambda s, m: jt.keep_top(s, m, keep))(scores, mask))


@dataclasses.dataclass(frozen=True)
class ByMagnitude(AtStep):
    """As `jt.prune_at(score="magnitude", step=k)`."""

    def tickets(self, runner, states):
        origin = dense_ticket(runner.net, states.states[self.step], self.start)
        scores = jax.tree.map(np.abs, origin.params)
        yield Stage(
            [
                Found(level, best(scores, density), origin)
                for level, density in enumerate(self.densities, 1)
            ]
        )

    def cost(self, runs, level):
        return of_dense(runs, self.step)


@dataclasses.dataclass(frozen=True)
class ByMovement(ByMagnitude):
    """Keeps the weights that moved furthest on the way to step k."""

    def tickets(self, runner, states):
        origin = dense_ticket(runner.net, states.states[self.step], self.start)
        moved = jax.tree.map(lambda w, b: abs(w - b), origin.params, states.states[0][0])
        for level, density in enumerate(self.densities, 1):
            yield Stage([Found(level, best(moved, density), origin)])


@dataclasses.dataclass(frozen=True)
class Halving(Strategy):
    """Iterative pruning to initialization, as `jt.Pruning(levels, fraction=0.5)`."""

    levels: int = 2
    exclude: tuple[str, ...] = ()
    schedule: str = "full"
    rescale: str | None = None
    last_level = property(lambda self: self.levels)
    rewind_step = 0
    fresh_noise = True

    def density_of(self, level):
        return 0.5**level

    def dense_steps(self, steps):
        return (steps,)

    def tickets(self, runner, states):
        weights, _ = states.states[runner.training.steps]
        origin = dense_ticket(runner.net, states.states[0], 0)
        mask, source = origin.mask, None
        for level in range(1, self.levels + 1):
            mask = best(jax.tree.map(np.abs, weights), self.density_of(level), mask)
            kept = yield Stage([Found(level, mask, origin, source)], keep=trained_weights)
            (weights, _), source = weights_of(kept, runner.net), level

    def cost(self, runs, level):
        return of_training(runs, level * runs.training.steps)


# --- and what it has to give


def run(strategy, **options):
    return run_strategy(NET, DATA, TRAINING, strategy, **{**USUAL, **options})


def builtin(strategy, **options):
    if isinstance(strategy, Halving):
        pruning = jt.Pruning(levels=2, fraction=0.5)
        return jt.find_tickets(NET, DATA, TRAINING, pruning, **{**USUAL, **options})
    own = {"density": strategy.densities, "step": strategy.step, "score": "magnitude"}
    return jt.prune_at(NET, DATA, TRAINING, **own, **{**USUAL, **options})


@pytest.mark.parametrize(
    "strategy", [ByMagnitude((0.5, 0.2), step=4), Halving()], ids=lambda s: type(s).__name__
)
def test_a_strategy_of_ones_own_gives_what_the_builtin_gives(strategy, tmp_path):
    ours = run(strategy, branches=("shuffle",), folder=tmp_path / "own")
    theirs = builtin(strategy, branches=("shuffle",))
    assert ours.levels == theirs.levels == (0, 1, 2)
    same = jax.tree.map(np.array_equal, ours.by_level, theirs.by_level)
    assert all(jax.tree.leaves(same))
    columns = ["level", "branch", "seed", "step", "split", "metric"]
    theirs_table = theirs.table().query("level > 0 or branch == 'ticket'")
    ours_table, theirs_table = (
        t.sort_values(columns).reset_index(drop=True) for t in (ours.table(), theirs_table)
    )
    assert ours_table.equals(theirs_table)
    # what it costs is its own
    spent = [jt.costs.finding(runs).set_index("level").loc[2] for runs in (ours, theirs)]
    assert spent[0]["training_steps"] == spent[1]["training_steps"] > 0
    # again: all of it is read
    again = run(strategy, branches=("shuffle",), folder=tmp_path / "own")
    assert again.table().equals(ours.table())
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, again.by_level, ours.by_level)))
    other = dataclasses.replace(strategy, exclude=("dense_1",))
    with pytest.raises(ValueError, match=r"other settings: `pruning\.exclude"):
        run(other, branches=("shuffle",), folder=tmp_path / "own")


def test_weights_that_moved_are_kept():
    runs = run(ByMovement((0.3, 0.1), step=4), dense=False)
    assert runs.levels == (1, 2)
    np.testing.assert_allclose(runs.densities, (0.3, 0.1), atol=1e-2)
    start, _ = NET.init(stream(jax.random.key(0), "init"))
    ticket, before = runs.ticket(1, 0), np.asarray(start["dense_0"]["kernel"])
    moved = np.abs(runs.origin.params["dense_0"]["kernel"][0] - before)
    kernel = ticket.mask["dense_0"]["kernel"]
    assert moved[kernel].min() > 0 and moved[kernel].mean() > 2 * moved[~kernel].mean()
    assert np.asarray(ticket.step) == 0


def test_what_is_no_strategy_is_refused():
    with pytest.raises(ValueError, match=r"`strategy` must be a jaxticket\.sparsify\.Strategy"):
        run("magnitude")
