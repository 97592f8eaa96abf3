"""Bounds of the code that a short storm never reaches, set so low that it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from mesh.core import calls, dispatch, intake, ledger, notes, ready, work

#: {(module, name): value in a small world}. Each stands in the module that reads it.
SMALL: dict[tuple[ModuleType, str], int] = {
    (calls, "PUBLISH_CALLS"): 32,
    (calls, "RECONCILE_CALLS"): 24,
    (calls, "RECEIVED_AT_ONCE"): 16,
    (calls, "RETAINED_BYTES_MAX"): 400,
    (dispatch, "CLEARED_AT_ONCE"): 2,
    (dispatch, "PAGED_FROM"): 8,
    (intake, "RECONCILED_MAX"): 32,
    (ledger, "COMMIT_CALLS"): 40,
    (ledger, "MOVE_BYTES"): 400,
    (notes, "NOTES_BYTES"): 200,
    (ledger, "SLACK_BYTES"): 800,
    (ledger, "LOOK_AFTER"): 8,
    (ledger, "TIDY_ROWS"): 4,
    (ledger, "WAITING_BYTES_MAX"): 2_000,
    (ready, "HUNGRY"): 6,
    (ready, "SWEEP_FROM"): 2,
    (work, "GAP_MAX"): 300,
    (work, "UNRECEIPTED_MAX"): 40,
}


@contextmanager
def small_world(*, is_small: bool) -> Iterator[None]:
    """Sets the bounds of `SMALL` while it lasts, if it is to be small."""
    known = {(module, name): getattr(module, name) for module, name in SMALL}
    try:
        for (module, name), value in SMALL.items() if is_small else ():
            setattr(module, name, value)
        yield
    finally:
        for (module, name), value in known.items():
            setattr(module, name, value)
