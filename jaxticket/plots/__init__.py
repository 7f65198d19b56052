"""Figures of lottery-ticket experiments: functions (table, ax=None) -> ax. Nothing is saved.

Figures show the dense network to compare with, means with their spread over seeds, and which seeds
diverged; `caption` adds the run that they came from. Any name of a branch, method or control may
occur in a table, also those that the library does not know. Where copies are compared, "dense" is
level 0 of "ticket", and samples are seeds × copies.
"""

from jaxticket.plots._calibration import reliability, separation
from jaxticket.plots._caption import caption
from jaxticket.plots._corruptions import corruption_errors, corruptions
from jaxticket.plots._costs import accuracy_against_cost
from jaxticket.plots._density import accuracy, dilation, early_stop
from jaxticket.plots._explanations import explanation
from jaxticket.plots._features import features, similarity
from jaxticket.plots._landscape import smoothness, spectral_density
from jaxticket.plots._layers import layer_densities, unit_collapse
from jaxticket.plots._matrices import controls, heat_map, transfer_matrix
from jaxticket.plots._overview import measured, overview
from jaxticket.plots._paths import path, plane, throughout
from jaxticket.plots._prune_at import accuracy_at_step, density_schedule
from jaxticket.plots._robustness import robustness
from jaxticket.plots._stability import (
    distance,
    distances_at_rewinding,
    error,
    instability,
    stable_and_matching,
)
from jaxticket.plots._style import branch_styles, style
from jaxticket.plots._surfaces import loss_contours, loss_cuts, loss_surface
from jaxticket.plots._training import curves, telemetry
from jaxticket.plots._verdicts import against_density, first_steps

__all__ = [
    "accuracy",
    "accuracy_against_cost",
    "accuracy_at_step",
    "against_density",
    "branch_styles",
    "caption",
    "controls",
    "corruption_errors",
    "corruptions",
    "curves",
    "density_schedule",
    "dilation",
    "distance",
    "distances_at_rewinding",
    "early_stop",
    "error",
    "explanation",
    "features",
    "first_steps",
    "heat_map",
    "instability",
    "layer_densities",
    "loss_contours",
    "loss_cuts",
    "loss_surface",
    "measured",
    "overview",
    "path",
    "plane",
    "reliability",
    "robustness",
    "separation",
    "similarity",
    "smoothness",
    "spectral_density",
    "stable_and_matching",
    "style",
    "telemetry",
    "throughout",
    "transfer_matrix",
    "unit_collapse",
]


def __dir__() -> list[str]:
    return __all__
