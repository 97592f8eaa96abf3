"""What is never shown."""

from __future__ import annotations

import pytest

from mesh.exceptions import InvalidSetting
from mesh.masking import MASK, masked
from mesh.settings import SettingSpec, check


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        *((name, "x", MASK) for name in ("api_x", "a_token", "security_key", "SECRET", "my_password", "database_url")),
        ("signature", b"x", MASK),
        ("security_key", None, None),
        ("has_key", True, True),
        ("crash_budget", 3, 3),
        ("broker_url", "mesh://lab", "mesh://lab"),
        ("broker_url", "redis://me:pw@host/1", f"redis://me:{MASK}@host/1"),
        ("broker_url", "redis://:p@w@host", f"redis://:{MASK}@host"),
        ("urls", ["a://b:c@d", "e"], [f"a://b:{MASK}@d", "e"]),
        ("urls", ("a://b:c@d",), (f"a://b:{MASK}@d",)),
        (
            "options",
            {"password": "x", "url": "a://b:c@d", "n": 1},
            {"password": MASK, "url": f"a://b:{MASK}@d", "n": 1},
        ),
    ],
)
def test_secrets_and_passwords_are_masked_and_nothing_else_is(name, value, shown):
    assert masked(name, value) == shown


def test_a_secret_is_not_repeated_where_it_is_refused():
    spec = SettingSpec("security_key", "text", "a key", "A key.", int)

    with pytest.raises(InvalidSetting) as caught:
        check(spec, "hunter2")

    assert "hunter2" not in f"{caught.value} {caught.value.value}"
