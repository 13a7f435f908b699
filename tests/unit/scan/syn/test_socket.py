"""The receive ring, as far as it needs no socket."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.syn.socket import _count_received

_SIZES = st.integers(1, 3000)


@given(_SIZES, st.lists(st.integers(0, 2999), max_size=5), st.integers(0, 2**31))
def test_frames_are_received_up_to_the_first_that_the_kernel_owns(size: int, kernels: list[int], flags: int) -> None:
    """The frames that are received end before the first one that the kernel owns, whatever other flags they have."""
    status = np.full(size, flags | 1, np.uint32)
    inside = [place for place in kernels if place < size]
    status[inside] &= ~np.uint32(1)
    assert _count_received(status) == min(inside, default=size)
