"""Wrong arguments of every package, in lines with that remark.

A type checker reads this file (see test_types.py); nothing calls the functions.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxticket as jt
from jaxticket import presets
from jaxticket.analysis import layers
from jaxticket.connectivity import line
from jaxticket.data import augment
from jaxticket.data.arrays import Data
from jaxticket.engine.learner import Plan
from jaxticket.engine.loop import Jobs, job_plan, train_jobs
from jaxticket.engine.program import program
from jaxticket.engine.runtime import Run
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.pruning import layouts
from jaxticket.sparsify import learned
from jaxticket.sparsify.learned.learner import ScoreOrigin, ScorePlan
from jaxticket.typing import Params, ScoreContext, TrainState


def score(params: Params, context: ScoreContext, *, key: jax.Array) -> Params:
    """A score."""
    return jax.tree.map(lambda w: w**2, params)


def score_of_weights(params: Params, *, key: jax.Array) -> Params:
    """No score: it takes no context."""
    return params


def loss_of_logits(logits: jax.Array) -> jax.Array:
    """No loss: it takes no labels."""
    return logits


def trainings(
    run: Run[TrainState, Plan, Origin],
    jobs: Jobs[Origin, Plan],
    jobs_of_scores: Jobs[ScoreOrigin, ScorePlan],
) -> None:
    """Jobs of the learner that the run has compiled, and of another."""
    train_jobs(run, jobs, "level-00")
    train_jobs(run, jobs_of_scores, "level-00")  # wrong


def calls(
    net: jt.Network, data: Data, training: jt.Training, runs: jt.Runs, ticket: jt.Ticket
) -> None:
    """Calls with right and wrong arguments."""
    key, array = jax.random.key(0), np.zeros(3)

    # top level
    jt.find_tickets(net, data, training, jt.Pruning(levels=2), seeds=range(2))
    jt.find_tickets(net, data, "training")  # wrong
    jt.find_tickets(data, net, training)  # wrong
    jt.Runtime(at_once="8")  # wrong

    # settings
    jt.Training(optimizer=1e-3)  # wrong
    jt.Training(loss=loss_of_logits)  # wrong
    jt.Training(metrics=(3,))  # wrong
    jt.Pruning(score=score)
    jt.Pruning(score=score_of_weights)  # wrong

    # masks, tickets and controls
    jt.masks.apply(ticket.mask, ticket.params)
    jt.masks.apply(ticket, ticket.params)  # wrong
    jt.density("mask")  # wrong
    ticket.save(3, net=net)  # wrong
    jt.branch(runs, jt.controls.shuffle)
    jt.branch(runs, score)  # wrong
    jt.branch(ticket, "reinit")  # wrong

    # engine
    job_plan(training, 3)
    job_plan("training", 3)  # wrong
    learner = Supervised(net, training)
    Supervised(net, "training")  # wrong
    program(learner, jt.parallel.mesh())
    program(learner, "mesh")  # wrong
    program(net, jt.parallel.mesh())  # wrong
    jt.parallel.mesh("2")  # wrong

    # nn
    net.init(0)  # wrong
    jt.networks.lenet(data.shape, "10")  # wrong
    jt.from_functions(net.init, net.apply, name="mine", shape=(8, 8, 1))
    jt.from_functions("init", net.apply, name="mine", shape=(8, 8, 1))  # wrong

    # data
    jt.data.from_arrays(array, array, array, array)
    jt.data.from_arrays(ticket, array, array, array)  # wrong
    augment.Crop(pixels="4")  # wrong

    # pruning
    jt.keep_top(ticket.params, ticket.mask, 3)
    jt.keep_top(ticket, ticket.mask, 3)  # wrong
    jt.prune(ticket.params, score=score_of_weights, density=0.5, key=key)  # wrong
    layouts.uniform([1, 2], 0.5)  # wrong

    # sparsify
    jt.prune_at(net, data, training, density=0.5, score=score)
    jt.prune_at(net, data, training, density=0.5, score=score_of_weights)  # wrong
    jt.search(net, data, training, jt.Pruning(), density=0.5)  # wrong

    # learned
    learned.Concrete(temperature="1")  # wrong
    learned.objective_values(ticket, "task")  # wrong

    # connectivity
    jt.instability(net, data, training, at="0")  # wrong
    line(net, data, training, [(ticket.params, ticket.stats)] * 2)
    line(net, data, training, [ticket, ticket])  # wrong

    # transferring
    jt.transfer(runs, to=data)
    jt.transfer(runs, to=net)  # wrong
    jt.elastic(runs, net=net, to=net)  # wrong

    # analysis
    jt.verdict(runs, level=2)
    jt.verdict(ticket, level=2)  # wrong
    jt.telemetry(runs, levels="1")  # wrong
    jt.costs.finding(ticket)  # wrong
    layers.report("runs")  # wrong

    # presets
    jt.preset(3)  # wrong
    presets.preset_of(net, data, training)  # wrong

    # plots
    jt.plots.accuracy(runs.table())
    jt.plots.accuracy(runs)  # wrong
    jt.plots.accuracy(runs.table(), ax=plt)  # wrong
