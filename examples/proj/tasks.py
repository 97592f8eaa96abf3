"""The tasks. Nodes import this module because the app names it in `include`."""

import time

from mesh.exceptions import SoftTimeLimitExceeded

from .mesh import app


@app.task
def add(x: float, y: float) -> float:
    """The sum of two numbers."""
    return x + y


@app.task
def mul(x: float, y: float) -> float:
    """The product of two numbers."""
    return x * y


@app.task
def xsum(numbers: list[float]) -> float:
    """The sum of many numbers."""
    return sum(numbers)


@app.task
def divide(x: float, y: float) -> float:
    """Raises ZeroDivisionError where `y` is 0, and the caller gets it."""
    return x / y


@app.task
def nap(seconds: float) -> float:
    """Takes a while. Returns how long."""
    time.sleep(seconds)
    return seconds


@app.task
def patient(seconds: float) -> str:
    """Takes its time, unless it is told that this is over."""
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "gave up in good order"
    return "slept well"


@app.task(bind=True)
def whereabouts(self) -> dict[str, object]:
    """What a run knows of itself: `self` is the task, `self.request` this run of it."""
    request = self.request
    return {"task": request.task, "node": request.hostname, "attempt": request.attempt}


@app.task(bind=True, default_retry_delay=0.1)
def third_time(self) -> str:
    """Has to be retried twice, like something that is not ready at first."""
    if self.request.retries < 2:
        raise self.retry()
    return f"done after {self.request.retries} retries"
