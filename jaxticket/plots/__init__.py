"""Figures of lottery-ticket experiments: functions (table, ax=None) -> ax. Nothing is saved."""

from jaxticket.plots._controls import controls
from jaxticket.plots._costs import accuracy_against_cost
from jaxticket.plots._curves import curves
from jaxticket.plots._density import accuracy
from jaxticket.plots._distances import distance, distances_at_rewinding
from jaxticket.plots._early import accuracy_at_step, density_schedule
from jaxticket.plots._layers import layer_densities, unit_collapse
from jaxticket.plots._paths import path, throughout
from jaxticket.plots._speed import dilation, early_stop
from jaxticket.plots._stability import error, instability
from jaxticket.plots._stability_grid import against_density, heat_map, plane
from jaxticket.plots._style import branch_styles, caption, style
from jaxticket.plots._telemetry import telemetry
from jaxticket.plots._transfers import transfer_matrix
from jaxticket.plots._verdicts import first_steps, stable_and_matching

__all__ = [
    "accuracy",
    "accuracy_against_cost",
    "accuracy_at_step",
    "against_density",
    "branch_styles",
    "caption",
    "controls",
    "curves",
    "density_schedule",
    "dilation",
    "distance",
    "distances_at_rewinding",
    "early_stop",
    "error",
    "first_steps",
    "heat_map",
    "instability",
    "layer_densities",
    "path",
    "plane",
    "stable_and_matching",
    "style",
    "telemetry",
    "throughout",
    "transfer_matrix",
    "unit_collapse",
]
