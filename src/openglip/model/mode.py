"""Which formulas the layers compute by: the fast ones, or the plain ones that tests hold them to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PLAIN: ContextVar[bool] = ContextVar("openglip_plain_formulas", default=False)


@contextmanager
def plain_formulas() -> Iterator[None]:
    """Compute by the formulas of the papers and the official code as they stand, for comparisons and exports.

    Inside the block no layer uses fused kernels, folded weights, chunks or threads of its own; results agree with the
    fast formulas up to rounding. The setting belongs to the calling thread and to the threads that a model starts.
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def is_plain() -> bool:
    """Whether the plain formulas are switched on."""
    return _PLAIN.get()
