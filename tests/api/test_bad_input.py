"""Bad bodies: whatever is sent, the answer is a reason, never a failure of the server."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.live import Live, Witness, adapter_files, assert_error, fresh, raw, wait_until

READY = HealthCheck.function_scoped_fixture
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
INPUTS = st.one_of(
    JSON,
    st.text(max_size=30),
    st.lists(st.text(max_size=10), max_size=4),
    st.fixed_dictionaries({"text": st.text(max_size=9) | JSON}, optional={"text_pair": st.text(max_size=9) | JSON}),
)
PARAMETERS = JSON | st.dictionaries(
    st.sampled_from(["logits", "top_k", "multi_label", "aggregation", "pooling", "normalize", "truncate"]), JSON
)


@pytest.fixture(scope="module", autouse=True)
def watching(live: Live):
    """A client of another task, all through these tests."""
    with Witness(live, live.add("witness", "lora", labels=4)) as witness:
        yield witness


@pytest.fixture(scope="module")
def tasks(live: Live) -> list[str]:
    """One task of every kind."""
    return [
        live.add("classify", "prefix"),
        live.add("tokens", "bottleneck", kind="tokens"),
        live.add("regress", "lora", kind="regress", labels=1),
        live.add("embed", "mask", kind="embed"),
        "base",
    ]


def checked(answer) -> None:
    """Well or refused; and what comes is JSON to the letter."""
    assert answer.status_code < 500, answer.text
    if answer.content:
        json.loads(answer.text, parse_constant=pytest.fail)
    if answer.is_error:
        assert_error(answer, answer.status_code)


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[READY])
def test_any_question(live: Live, tasks, data):
    task = data.draw(st.sampled_from(tasks))
    body = data.draw(JSON | st.fixed_dictionaries({"inputs": INPUTS}, optional={"parameters": PARAMETERS}))
    checked(live.client.post(f"/v1/tasks/{task}/predict", content=json.dumps(body)))


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[READY])
def test_any_question_of_many(live: Live, tasks, data):
    name = st.sampled_from([*tasks, "none", ""]) | JSON
    item = st.fixed_dictionaries({"task": name, "inputs": INPUTS}, optional={"parameters": PARAMETERS}) | JSON
    fields = {
        "requests": st.lists(item, max_size=3) | JSON,
        "tasks": st.lists(name, max_size=3) | JSON,
        "inputs": INPUTS,
        "parameters": PARAMETERS,
    }
    body = data.draw(JSON | st.fixed_dictionaries({}, optional=fields))
    answer = live.client.post("/v1/predict", content=json.dumps(body))
    checked(answer)
    if answer.status_code == 200:
        for result in answer.json()["results"]:
            assert ("error" in result) != ("outputs" in result)
            assert "error" not in result or result["error"]["code"] < 500


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[READY])
@pytest.mark.usefixtures("unchanged")
def test_any_change_of_a_task(live: Live, tasks, data):
    task = tasks[0]
    method, path, fields = data.draw(
        st.sampled_from(
            [
                ("PUT", "", ["labels", "template", "max_tokens", "overflow", "pooling", "normalize", "defaults",
                             "priority", "pinned"]),
                ("PUT", "/aliases/x", ["version", "split"]),
                ("POST", "/rollback", ["version"]),
            ]
        )
    )  # fmt: skip
    value = JSON | st.lists(st.fixed_dictionaries({"version": st.just(1) | JSON, "weight": st.floats() | JSON}))
    body = data.draw(JSON | st.dictionaries(st.sampled_from(fields), value, max_size=3))
    checked(live.client.request(method, f"/v1/tasks/{task}{path}", content=json.dumps(body)))
    shown = live.client.get(f"/v1/tasks/{task}")
    assert shown.status_code == 200
    json.loads(shown.text, parse_constant=pytest.fail)
    checked(live.ask(task, "w1"))


@pytest.fixture
def unchanged(live: Live, tasks):
    """The settings that the test has made are taken back."""
    yield
    nothing = dict.fromkeys(["labels", "template", "max_tokens", "overflow", "pooling", "normalize", "defaults"])
    assert live.client.put(f"/v1/tasks/{tasks[0]}", json=nothing).status_code == 200


# ---- by hand


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"inputs": "w1"',
        b'{"inputs": "w1"} more',
        b"\xff\xfe",
        b'{"inputs": "\xff"}',
        b'{"inputs": "\\ud800"}',
        b'{"inputs": "\\udc00 w1"}',
        b'{"inputs": "\xed\xa0\x80"}',
        b"[" * 50_000,
        b'{"inputs": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
        b'{"inputs": "w1", "parameters": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
        b'{"inputs": ' + b"9" * 10_000 + b"}",
        b"NaN",
        b'"inputs"',
        b"\xef\xbb\xbf{}",
        b"\x00",
    ],
)
@pytest.mark.parametrize("path", ["/v1/tasks/base/predict", "/v1/predict"])
def test_what_is_no_json_of_a_question(live: Live, path, content):
    assert_error(live.client.post(path, content=content), 400)


@pytest.mark.parametrize(
    ("inputs", "param"),
    [
        ("", "inputs.0"),
        ("  \n", "inputs.0"),
        ([], "inputs"),
        (["w1", ""], "inputs.1"),
        ({"text": ""}, "inputs.0"),
        ({"text": "", "text_pair": "w1"}, "inputs.0"),
        (None, "inputs"),
        (5, "inputs"),
        (True, "inputs"),
        ([5], "inputs"),
        ([["w1"]], "inputs"),
        ({}, "inputs"),
        ({"text_pair": "w1"}, "inputs"),
        ({"text": 1}, "inputs"),
        ({"text": "w1", "more": 1}, "inputs"),
        ([None], "inputs"),
    ],
)
def test_inputs_that_are_none(live: Live, tasks, inputs, param):
    for task in tasks:
        assert assert_error(live.ask(task, inputs), 400)["param"].startswith(param)


@pytest.mark.parametrize("parameters", [[], "x", 5, True, {"unknown": 1}, {"": 1}, {"top_k": {"a": [1]}}])
def test_parameters_that_are_none(live: Live, tasks, parameters):
    for task in tasks:
        body = {"inputs": "w1", "parameters": parameters}
        error = assert_error(live.client.post(f"/v1/tasks/{task}/predict", json=body), 400)
        assert error["param"].startswith("parameters")


def test_parameters_of_another_kind_name_the_right_ones(live: Live, tasks):
    classify, tokens, regress, embed, base = tasks
    for task, wrong, right in (
        (classify, {"pooling": "mean"}, ["logits", "top_k", "multi_label"]),
        (tokens, {"multi_label": True}, ["aggregation", "logits"]),
        (regress, {"logits": True}, ["truncate"]),
        (embed, {"top_k": 1}, ["pooling", "normalize"]),
        (base, {"temperature": 1}, ["pooling", "normalize"]),
    ):
        assert_error(live.ask(task, "w1", **wrong), 400, next(iter(wrong)), *right)


def test_unknown_fields_are_named(live: Live):
    body = {"inputs": "w1", "parameter": {}}
    error = assert_error(live.client.post("/v1/tasks/base/predict", json=body), 400, "parameter")
    assert error["param"] == "parameter"


def test_an_unknown_task_names_the_nearest(live: Live):
    task = live.add("sentiment-of-reviews")
    error = assert_error(live.ask(f"sentimant-of-reviews-{task.rpartition('-')[2]}"), 404, "does not exist", task)
    assert error["param"] == "task"
    assert_error(live.ask("x" * 5000), 400)
    assert_error(live.ask("q" * 100), 404)


@pytest.mark.parametrize("path", ["/v1/tasks/base/predict", "/v1/predict", "/v1/tasks/x/versions"])
def test_a_body_over_the_limit(start, path):
    with start(max_body=50_000, max_upload=50_000) as live:
        size = 3 << 20
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        head = b'--x\r\nContent-Disposition: form-data; name="archive"; filename="a"\r\n\r\n'
        for headers in ({}, {"Content-Type": "application/json"}) if "predict" in path else (kind,):
            assert_error(live.client.post(path, content=head + b"x" * size, headers=headers), 413, "bytes")
            # With no length given: in chunks.
            chunks = (piece for piece in [head, *[b"x" * 10_000] * (size // 10_000)])
            assert_error(live.client.post(path, content=chunks, headers=headers), 413, "bytes")
        # A length that is only claimed is refused before a byte of the body is sent.
        claim = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {headers.get('Content-Type', '')}\r\n"
        connection = raw(live, f"{claim}Content-Length: {1 << 40}\r\n\r\n".encode())
        with connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 413")
        assert live.staged == []
        assert live.ask("base", "w1").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    ],
)
def test_what_is_no_http_harms_nobody(live: Live, watching: Witness, data):
    with raw(live, data):
        before = watching.answers
        wait_until(lambda: watching.answers > before, "another answer for the witness")
    assert live.client.get("/healthz").status_code == 200


def test_a_task_of_every_unicode_name_is_only_refused(live: Live):
    for name in ("ä", "%00", "%ff", "..", "%2e%2e", "a%2fb", "a;b", "a%0ab", "${x}", "'", "%F0%9F%A4%96"):
        for answer in (
            live.client.get(f"/v1/tasks/{name}"),
            live.client.post(f"/v1/tasks/{name}/predict", json={"inputs": "w1"}),
            live.client.delete(f"/v1/tasks/{name}"),
        ):
            assert_error(answer, answer.status_code)
            assert answer.status_code in (400, 404, 405)


def test_an_adapter_whose_answers_are_no_numbers_fails_alone(live: Live):
    import safetensors.torch

    files = adapter_files(live.backbone)
    tensors = safetensors.torch.load(files["adapter_model.safetensors"])
    for name, tensor in tensors.items():
        if "lora" in name:
            tensor.fill_(3e38)
    task = fresh()
    answer = live.upload(task, files | {"adapter_model.safetensors": safetensors.torch.save(tensors)})
    if answer.status_code == 201:
        assert_error(live.ask(task), 500, "not finite")
        results = live.client.post("/v1/predict", json={"tasks": [task, "base"], "inputs": "w1"}).json()["results"]
        assert ["error" in result for result in results] == [True, False]
    else:
        assert_error(answer, 422)
