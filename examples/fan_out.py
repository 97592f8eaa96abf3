"""Adds up a million numbers in ten parts that run side by side.

Start a node in this directory with `mesh -A proj worker`, then run `python fan_out.py`.
"""

from proj.tasks import xsum

PART = 100_000
numbers = range(10 * PART)

# Calls return at once: all parts are under way before the first result is asked for.
parts = [xsum.delay(list(numbers[start : start + PART])) for start in range(0, len(numbers), PART)]
total = sum(part.get(timeout=60) for part in parts)

print(f"{len(parts)} parts add up to {total}")
assert total == sum(numbers)
