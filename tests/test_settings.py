"""Settings: their sources, in order, and what is said of a wrong one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from manyhats.errors import WrongSetting
from manyhats.settings import Settings, load_settings

FORMER = {
    "batch_tokens": "max_num_batched_tokens",
    "step_tokens": "max_num_batched_tokens",
    "max_texts": "max_num_seqs",
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"MANYHATS_{name.upper()}", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a settings file may lie."""
    return tmp_path / "manyhats.toml"


def wrong(config: Path | None = None, **given: Any) -> str:
    """The one line that is said of wrong settings."""
    with pytest.raises(WrongSetting) as raised:
        load_settings(config, **given)
    assert "\n" not in raised.value.message
    return raised.value.message


def test_the_option_wins_over_the_variable_and_that_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('port = 1\nhost = "file"\nstore = "file"\n')
    monkeypatch.setenv("MANYHATS_PORT", "2")
    monkeypatch.setenv("MANYHATS_HOST", "variable")
    settings = load_settings(file, port="3")
    assert (settings.port, settings.host, str(settings.store)) == (3, "variable", "file")
    assert load_settings().slots == Settings.model_fields["slots"].default


def test_every_setting_can_come_from_every_source(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = dict.fromkeys(Settings.model_fields, "8") | {
        "dtype": "float16",
        "log_level": "debug",
        "weight_layout": "plain",
        "kernels": "reference",
        "deterministic": "true",
        "tf32": "true",
        "enforce_eager": "true",
        "quantization": "int8",
        "self_check": "false",
        "allow_unauthenticated": "true",
        "allowed_sources": "hub:a/*",
        "cors_origins": "https://a.example",
        "metrics_names": "nobody",
        "metrics_vllm_names": "true",
        "log_format": "json",
        "request_log": "stdout",
        "log_texts": "true",
        "otlp_endpoint": "http://127.0.0.1:4318",
        "database_url": "postgresql://manyhats@127.0.0.1:5432/manyhats",
        "database_migrate": "true",
        "blobs_url": "s3://bucket/prefix",
        "verify_fraction": "0.5",
    }
    texts = {name: text for name, text in texts.items() if name not in FORMER}
    file.write_text("".join(f'{name} = "{text}"\n' for name, text in texts.items()))
    from_file = load_settings(file)
    from_options = load_settings(**texts)
    for name, text in texts.items():
        monkeypatch.setenv(f"MANYHATS_{name.upper()}", text)
    assert from_file.model_dump() == from_options.model_dump() == load_settings().model_dump()
    assert all(getattr(from_file, name) != Settings.model_fields[name].default for name in texts)


@pytest.mark.parametrize(("former", "name"), FORMER.items())
def test_a_former_name_is_followed_and_named(
    former: str, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert getattr(load_settings(**{former: "96"}), name) == 96
    assert former in caplog.text
    assert name in caplog.text
    monkeypatch.setenv(f"MANYHATS_{former.upper()}", "97")
    assert getattr(load_settings(), name) == 97
    message = wrong(api_keys="secret", **{name: "5"})
    assert former in message
    assert name in message
    assert "secret" not in message


def test_two_former_names_of_one_setting_are_refused() -> None:
    assert wrong(batch_tokens=5, step_tokens=6) == (
        "batch_tokens and step_tokens are one setting now; give max_num_batched_tokens alone"
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("3GiB", 3 << 30), ("2 MB", 2_000_000), ("1.5kib", 1536), ("77", 77), (4096, 4096)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert load_settings(slot_memory=text).slot_memory == size


@pytest.mark.parametrize(
    "text", ["localhost:4318", "grpc://localhost:4317", "http://", "http:///v1/traces", "http://a b"]
)
def test_what_is_no_address_of_a_receiver_is_refused(text: str) -> None:
    assert "write the address of an OTLP receiver, as http://127.0.0.1:4318" in wrong(otlp_endpoint=text)


@pytest.mark.parametrize("text", ["-5", "nan", "1 potato", "", "GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    assert wrong(max_body=text).startswith("setting 'max_body'")


def test_keys_come_as_text_or_as_a_list(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYHATS_API_KEYS", "first, second,,")
    file.write_text('admin_keys = ["third, with a comma"]\n')
    settings = load_settings(file)
    assert [key.get_secret_value() for key in settings.api_keys] == ["first", "second"]
    assert [key.get_secret_value() for key in settings.admin_keys] == ["third, with a comma"]
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert not re.search("first|second|third", text)


@pytest.mark.parametrize("name", ["api_keys", "admin_keys"])
@pytest.mark.parametrize("text", ["", " ", " , ", ",", "\t"])
def test_keys_that_are_given_but_empty_are_refused(
    name: str, text: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wrong(**{name: text}).startswith(f"setting '{name}': it is given, but a key is empty")
    monkeypatch.setenv(f"MANYHATS_{name.upper()}", text)
    assert wrong().startswith(f"setting '{name}': it is given, but a key is empty")
    monkeypatch.delenv(f"MANYHATS_{name.upper()}")
    for content in ("[]", '[""]', '["a", " "]', '""'):
        file.write_text(f"{name} = {content}\n")
        assert "a key is empty" in wrong(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("allowed_hosts", "http://a.example"),
        ("allowed_hosts", "a.example:80"),
        ("allowed_hosts", "*a.example"),
        ("allowed_hosts", "a b"),
        ("cors_origins", "a.example"),
        ("cors_origins", "https://a.example/"),
        ("cors_origins", "https://a.example/path"),
        ("cors_origins", "https://*.example"),
    ],
)
def test_names_that_could_never_match_are_refused(name: str, text: str) -> None:
    message = wrong(**{name: f"localhost,{text}" if name == "allowed_hosts" else f"http://localhost,{text}"})
    assert message.startswith(f"setting '{name}': '{text}' is no ")


def test_names_come_as_text_or_as_a_list(file: Path) -> None:
    file.write_text('allowed_hosts = ["a.example", "*.B.example"]\ncors_origins = "https://A.example:8443, null"\n')
    settings = load_settings(file)
    assert settings.allowed_hosts == ("a.example", "*.B.example")
    assert settings.cors_origins == ("https://a.example:8443", "null")
    assert load_settings(allowed_hosts="").allowed_hosts == ()


@pytest.mark.parametrize(
    "content", ['api_key = "sesame"', 'api_keys = {a = "sesame"}', 'admin_keys = ["b", ["sesame"]]']
)
def test_a_key_in_a_wrong_setting_is_not_repeated(file: Path, content: str) -> None:
    file.write_text(content)
    assert "sesame" not in wrong(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"port = 99999", "setting 'port': Input should be less than or equal to 65535 (got 99999)"),
        (b"prot = 1", "there is no setting 'prot'"),
        (b"[server]\nport = 1", "there is no setting 'server'"),
        (b"port = 1.5", "setting 'port'"),
        (b"host = 3", "setting 'host'"),
        (b"port = ", "settings file '"),
        (b"port = 1\nport = 2", "settings file '"),
        (b"\xff\xfe", "settings file '"),
    ],
)
def test_a_wrong_file_is_reported_in_one_line(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    assert wrong(file).startswith(message)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "http"),
        ("port", "-1"),
        ("threads", "-1"),
        ("slots", "0"),
        ("queue_total", "0"),
        ("request_timeout", "0"),
        ("request_timeout", "nan"),
        ("request_timeout", "inf"),
        ("drain_timeout", "inf"),
        ("scan_interval", "inf"),
        ("log_level", "loud"),
    ],
)
def test_values_out_of_their_range_are_refused(name: str, value: str) -> None:
    message = wrong(**{name: value})
    assert message.startswith(f"setting '{name}': ")
    assert f"(got '{value}')" in message


def test_a_wrong_variable_is_reported_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYHATS_SLOTS", "many")
    assert wrong().startswith("setting 'slots'")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "does not exist" in wrong(tmp_path / "none.toml")
    assert "does not exist" in wrong(tmp_path)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]
