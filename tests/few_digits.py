"""96 training and 80 test images of digits, for tests of how parts work together."""

import jaxticket as jt

DIGITS = jt.data.load("digits")
DATA = jt.data.from_arrays(
    DIGITS.train.x[:96], DIGITS.train.y[:96], DIGITS.test.x[:80], DIGITS.test.y[:80]
)
