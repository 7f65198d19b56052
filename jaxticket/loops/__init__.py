"""Sparse training in your own loop: optax transformations, and the library's training as one."""

from jaxticket.loops._gradual import PolynomialDensity, gradual
from jaxticket.loops._make_train import make_train
from jaxticket.loops._masked import map_moments as map_moments
from jaxticket.loops._masked import mask_of, masked, with_mask

__all__ = ["PolynomialDensity", "gradual", "make_train", "mask_of", "masked", "with_mask"]
