"""Settings: their sources, in order, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
from manyhats.errors import WrongSetting
from manyhats.settings import load_settings


def test_the_option_wins_over_the_variable_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "manyhats.toml"
    file.write_text('port = 1\nhost = "file"\nstore = "file"\n')
    monkeypatch.setenv("MANYHATS_PORT", "2")
    monkeypatch.setenv("MANYHATS_HOST", "variable")
    settings = load_settings(file, port="3")
    assert (settings.port, settings.host, str(settings.store)) == (3, "variable", "file")


def test_sizes_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYHATS_SLOT_MEMORY", "3GiB")
    monkeypatch.setenv("MANYHATS_API_KEYS", "first, second")
    settings = load_settings()
    assert settings.slot_memory == 3 << 30
    assert [key.get_secret_value() for key in settings.api_keys] == ["first", "second"]
    assert "second" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [("port = 99999\n", "setting 'port'"), ("prot = 1\n", "setting 'prot'"), ("port = \n", "settings file")],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "manyhats.toml"
    file.write_text(content)
    with pytest.raises(WrongSetting, match=message) as raised:
        load_settings(file)
    assert "\n" not in raised.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WrongSetting, match="does not exist"):
        load_settings(tmp_path / "none.toml")
