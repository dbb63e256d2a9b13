"""The command line: exit codes, and one line that says why."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from manyhats import cli
from manyhats._version import __version__
from manyhats.settings import Settings
from typer.testing import CliRunner

COMMANDS = ("serve", "push", "download", "tasks", "show", "set", "alias", "rollback", "delete")
COMMANDS += ("load", "unload", "pin", "unpin", "predict", "train", "convert", "doctor", "bench", "scale")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["manyhats", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_every_setting_is_an_option_of_serve_with_its_variable_and_default() -> None:
    result = CliRunner().invoke(cli.app, ["serve", "--help"], env={"COLUMNS": "500"})
    assert result.exit_code == 0
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in result.output
        assert f"{field.description} (MANYHATS_{name.upper()}; default" in result.output
    assert "default 8000)" in result.output
    for shown in (
        r"--port .*\[0<=x<=65535\]",
        r"--dtype +[<\[]auto\|float32\|bfloat16\|float16[>\]]",
        r"--tf32 +true\|false",
        r"--cache-memory +SIZE .*default 2\.0GiB",
        r"--keep-alive +<float> \[0<x<=86400\]",
    ):
        assert re.search(shown, result.output), shown
    assert "MANYHATS_CONFIG" in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output
    assert command in CliRunner().invoke(cli.app, ["--help"]).output


def test_the_version_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["tasks", "--url", "http://127.0.0.1:9"], 1, "no answer from http://127.0.0.1:9"),
        (["convert", "/nowhere/at/all", "out"], 2, "is no folder"),
        (["push", "spam", "/nowhere/at/all"], 2, "is no adapter folder"),
        (["serve"], 2, "no backbone: give --backbone"),
        (["serve", "--backbone", "/nowhere/at/all", "--port", "0"], 1, "/nowhere/at/all"),
        (["serve", "--store", "s3://bucket/store"], 2, "setting 'store': a store is a folder on this machine"),
        (["bench", "--backbone", "x", "--store", "s3://bucket"], 2, "setting 'store': a store is a folder"),
        (["scale"], 2, "no backbone: give --backbone"),
        (["scale", "--backbone", "x", "--min-replicas", "2"], 2, "give --min-replicas and --max-replicas together"),
        (["scale", "--host", "0.0.0.0"], 2, "allow_unauthenticated"),
        (["serve", "--backbone", "x", "--host", "192.0.2.1", "--api-keys", "k"], 2, "no address of this machine"),
        (["serve", "--cache-memory", "much"], 2, "setting 'cache_memory'"),
        (["serve", "--request-timeout", "0"], 2, "setting 'request_timeout': Input should be greater than 0"),
        (["serve", "--tf32", "maybe"], 2, "setting 'tf32'"),
        (["serve", "--config", "/nowhere/at/all.toml"], 2, "does not exist"),
        (["serve", "--api-keys", ""], 2, "setting 'api_keys': it is given, but a key is empty"),
        (["serve", "--admin-keys", " , "], 2, "setting 'admin_keys': it is given, but a key is empty"),
        (["serve", "--host", "0.0.0.0"], 2, "allow_unauthenticated"),
        (["serve", "--host", "0.0.0.0", "--allow-unauthenticated"], 2, "no backbone"),
        (["serve", "--allow-unauthenticated", "--host", "0.0.0.0"], 2, "no backbone"),
        (["serve", "--allow-unauthenticated", "true", "--host", "0.0.0.0"], 2, "no backbone"),
        (["serve", "--allow-unauthenticated", "false", "--host", "0.0.0.0"], 2, "allow_unauthenticated"),
        (["serve", "--host", "0.0.0.0", "--api-keys", "k"], 2, "no backbone"),
    ],
)
def test_what_goes_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # `serve` takes the signals of the whole process
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    monkeypatch.delenv("MANYHATS_BACKBONE", raising=False)
    assert run(monkeypatch, *words) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("manyhats: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def test_a_port_in_use_is_said_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    monkeypatch.setattr("manyhats.runtime.Runtime", lambda *_: pytest.fail("the backbone is loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ("serve", "--backbone", "x", "--store", str(tmp_path / "store"), "--port", port)
        assert run(monkeypatch, *words) == 1
    assert capsys.readouterr().err == (
        f"manyhats: port {port} of 127.0.0.1 is in use; end what listens there, or give another --port\n"
    )
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command"),
        (["push"], "Missing argument"),
        (["serve", "--prot", "1"], "No such option"),
        (["rollback", "spam", "three"], "Invalid value"),
        (["serve", "--port", "http"], "Invalid value for '--port'"),
        (["serve", "--port", "65536"], "Invalid value for '--port'"),
        (["scale", "--replicas", "0"], "Invalid value for '--replicas'"),
        (["serve", "--slots", "0"], "Invalid value for '--slots'"),
        (["serve", "--dtype", "float8"], "'float8' is not one of"),
        (["bench", "--backbone", "x", "--dtype", "float8"], "'float8' is not one of"),
    ],
)
def test_wrong_usage_is_code_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(monkeypatch, *words) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err


def test_it_starts_without_loading_torch(tmp_path: Path) -> None:
    """A command that only talks to a server does not wait for torch; and the codes hold for a real process."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt"):
        (folder / name).write_bytes(b"{}")
    script = (
        "import sys\nsys.argv = ['manyhats', 'push', 'spam', *sys.argv[1:]]\n"
        "from manyhats.cli import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules, 'torch is loaded'\n"
    )
    nobody = "http://127.0.0.1:9"
    for path, code, message in (
        (tmp_path / "none", 2, f"manyhats: '{tmp_path / 'none'}' is no adapter folder and no zip or tar.gz"),
        (folder, 1, f"manyhats: no answer from {nobody}"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, str(path), "--url", nobody], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.splitlines()[-1].startswith(message)
