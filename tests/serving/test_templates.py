"""Templates that take too much end themselves alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from manyhats.errors import InputTooLong, InvalidRequest, Overloaded
from manyhats.serving.templates import TemplateProcesses

GOOD = "{% for m in messages %}{{ m.content }}{% endfor %}"
VARIABLES: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

linux = pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory is Linux's")


@pytest.fixture
def processes() -> Iterator[TemplateProcesses]:
    made = TemplateProcesses(computing=0.3, elapsed=20)
    yield made
    made.close()


def good(processes: TemplateProcesses) -> bool:
    return processes.render(GOOD, VARIABLES, 100) == "hi"


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("{{ 1/0 }}", "ZeroDivisionError"),
        ("{{ x.y.z }}", "undefined"),
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('not so') }}", "not so"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "not safely callable|unsafe"),
        ("{{ range(10**9) }}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deep"),
        ("{{" + "(" * 5000, "nested too deep"),
        ("{% set ns = namespace(_a=1) %}", "underscore"),
    ],
)
def test_faults_of_a_template_are_told(processes: TemplateProcesses, template: str, match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        processes.render(template, VARIABLES, 1000)
    assert good(processes)


@linux
@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 2**32 }}",
        "{% set x = 'a' * 2**30 %}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'x' | center(10**10) }}",
        "{{ 'x' | indent(10**9) }}",
        "{{ [0] * 10**9 }}",
        "{{ ['a', 'b'] | join('x' * 10**9) }}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ],
)
def test_memory_is_bounded(template: str) -> None:
    processes = TemplateProcesses(computing=20, elapsed=60)
    with pytest.raises(InvalidRequest, match="too much memory"):
        processes.render(template, VARIABLES, 1000)
    assert good(processes)
    processes.close()


@pytest.mark.parametrize(
    "template", [ENDLESS, "{{ (7 ** (10 ** 9)) | string }}", "{{ messages | tojson * 0 }}" + ENDLESS]
)
def test_computing_is_bounded(processes: TemplateProcesses, template: str) -> None:
    """By the system, wherever Python is in."""
    with pytest.raises(InvalidRequest, match="too long"):
        processes.render(template, VARIABLES, 1000)
    assert not processes._idle
    assert good(processes)


def test_the_clock_bounds_where_the_system_does_not() -> None:
    processes = TemplateProcesses(computing=0, elapsed=1.0)
    with pytest.raises(InvalidRequest, match="too long"):
        processes.render(ENDLESS, VARIABLES, 1000)
    processes.close()


def test_the_length_is_bounded(processes: TemplateProcesses) -> None:
    assert processes.render("{{ 'é' * 1000 }}", VARIABLES, 1000) == "é" * 1000
    for template in (
        "{{ 'a' * 1001 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}ab{% endfor %}{% endfor %}",
    ):
        with pytest.raises(InputTooLong, match="more than 1000 characters"):
            processes.render(template, VARIABLES, 1000)


def test_any_text_comes_back_as_it_went(processes: TemplateProcesses) -> None:
    for text in ("\x00 \ud83d é 🙂 \u2028", "'\"\\{{ }}", ""):
        assert processes.render("{{ messages[0].content }}", {"messages": [{"content": text}]}, 100) == text
    assert processes.render("{{ environment }}", {"self": 1, "environment": 2}, 100) == "2"


def test_many_threads_share_the_processes(processes: TemplateProcesses) -> None:
    found: list[str] = []

    def ask(i: int) -> None:
        found.append(processes.render("{{ i }}", {"i": i}, 100))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, found)) == list(range(24))
    assert len(processes._idle) <= processes.max_processes


def test_a_template_that_took_too_long_is_rendered_one_at_a_time(processes: TemplateProcesses) -> None:
    with pytest.raises(InvalidRequest, match="too long"):
        processes.render(ENDLESS, VARIABLES, 1000)
    with processes._watched_busy:  # another request renders it
        with pytest.raises(Overloaded, match="took too long before"):
            processes.render(ENDLESS, VARIABLES, 1000)
        assert good(processes)


def test_a_process_that_ended_meanwhile_is_replaced(processes: TemplateProcesses) -> None:
    assert good(processes)
    (process,) = processes._idle
    process.kill()
    assert good(processes)
    (process,) = processes._idle
    process.kill()
    process.wait()
    assert good(processes)
