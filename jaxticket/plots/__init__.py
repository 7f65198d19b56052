"""Figures of lottery-ticket experiments: functions (table, ax=None) -> ax. Nothing is saved."""

from jaxticket.plots.curves import curves
from jaxticket.plots.density import accuracy
from jaxticket.plots.speed import dilation, early_stop
from jaxticket.plots.style import branch_styles, caption, style

__all__ = ["accuracy", "branch_styles", "caption", "curves", "dilation", "early_stop", "style"]
