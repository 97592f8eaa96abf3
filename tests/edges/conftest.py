"""What tests of the disk get: a shim that stands between a process and its disk."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edges.disk import Disk

SOURCE = Path(__file__).with_name("disk_shim.c")


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler called cc (Debian, Ubuntu: apt-get install gcc libc6-dev)")
    made = tmp_path_factory.mktemp("shim") / "disk_shim.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", made, SOURCE, "-ldl"], check=True)
    return made


@pytest.fixture
def disk(shim: Path, tmp_path: Path) -> Iterator[Disk]:
    """A directory whose disk can be told to fail."""
    made = Disk(shim, tmp_path)
    yield made
    made.close()
