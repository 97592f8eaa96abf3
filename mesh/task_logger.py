"""Log records know their task: what is logged while one runs carries its id (`task`) and its name (`task_name`)."""

from __future__ import annotations

import logging
from typing import Final

from mesh import ids
from mesh.request import current_run


def task_fields() -> dict[str, str]:
    """What a record has of the task that this thread runs; nothing outside of one."""
    run = current_run()
    return {} if run is None else {"task": ids.to_text(run[0]), "task_name": run[1]}


class InTask(logging.Filter):
    """Lets every record pass, and adds the task where the record does not name one itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        if "task" not in record.__dict__:
            record.__dict__.update(task_fields())
        return True


_IN_TASK: Final = InTask()


def get_task_logger(name: str) -> logging.Logger:
    """The logger of this name, whose records carry `task` and `task_name` in a task, for handlers of your own too.

    The log of a node has them for every logger.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_IN_TASK)
    return logger
