"""`python -m bench.stores`: it runs, gives figures for what is installed, and leaves nothing behind."""

import json
from pathlib import Path

import pytest

from bench import stores


def test_the_stores_are_measured_and_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # When
    code = stores.main(["--quick", "--json", "--dir", str(tmp_path)])

    # Then there are figures of each size, synced and not, for mesh's own store at least
    rows = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["store"] == "SQLite"]
    assert code == 0
    assert [(row["synced"], row["calls"]) for row in rows] == [
        (synced, calls) for synced in (False, True) for calls in stores.ROWS_OF
    ]
    assert all(row["calls_per_s"] > 0 and row["p50_us"] <= row["p99_us"] for row in rows)
    assert list(tmp_path.iterdir()) == []
