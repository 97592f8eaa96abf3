"""What is logged of a task that has failed, by a slot and by an eager call alike."""

from __future__ import annotations

import logging

from mesh import ids
from mesh.execution import of_the_task


def log_failure(
    logger: logging.Logger, name: str, task_id: bytes, error: BaseException, shown: str, *, expected: bool
) -> None:
    """`shown` is the error in a few words. `expected`: the task lists it in `throws`; it is no news then."""
    text = ids.to_text(task_id)
    logger.log(
        logging.INFO if expected else logging.ERROR,
        "task %s[%s] raised %s",
        name,
        text,
        shown,
        exc_info=None if expected else (type(error), error, of_the_task(error.__traceback__)),
        extra={"action": "task_failed", "task": text},
    )
