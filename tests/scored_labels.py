"""Labels with awkward scores, for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

#: Few distinct values make ties; the neighbours of 0.5 and the smallest numbers are where comparisons go wrong.
AWKWARD = (0.0, 5e-324, 1e-300, 0.25, np.nextafter(0.5, 0), 0.5, np.nextafter(0.5, 1), 0.75, 1 - 2**-53, 1.0)


@st.composite
def scored_labels(draw):
    """Labels of both classes with scores that are tied, awkward or plain."""
    labels = draw(st.lists(st.integers(0, 1), min_size=2, max_size=60).filter(lambda y: 0 < sum(y) < len(y)))
    scores = st.one_of(st.sampled_from(AWKWARD), st.floats(0, 1))
    return np.array(labels), np.array(draw(st.lists(scores, min_size=len(labels), max_size=len(labels))))
