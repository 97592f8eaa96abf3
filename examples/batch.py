"""Sends two thousand small calls in few messages, and collects the results as they were sent.

Start a node in this directory with `mesh -A proj worker`, then run `python batch.py`.
"""

from proj.mesh import app
from proj.tasks import mul

# What this thread sends inside the block leaves at its end, all together.
with app.batch():
    squares = [mul.delay(number, number) for number in range(2000)]

values = [square.get(timeout=60) for square in squares]

print(f"the last of {len(values)} squares is {values[-1]}")
assert values == [number * number for number in range(2000)]
