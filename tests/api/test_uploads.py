"""Uploads that are no good: each is refused with a reason, leaves nothing behind, and disturbs nobody."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manyhats.backbone import Backbone

from tests.amounts import tried
from tests.api.live import (
    PATIENCE,
    Files,
    Live,
    Witness,
    adapter_files,
    assert_error,
    at_once,
    close,
    edited,
    fresh,
    post_head,
    raw,
    serving,
    wait_until,
)

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def with_tensors(files: Files, change: Callable[[dict[str, torch.Tensor]], object], name: str = WEIGHTS) -> Files:
    """The files with their tensors changed in place by `change`."""
    tensors = safetensors.torch.load(files[name])
    change(tensors)
    return files | {name: safetensors.torch.save(tensors)}


def first(tensors: dict[str, torch.Tensor], part: str = "lora_A") -> str:
    return next(name for name in sorted(tensors) if part in name)


def put(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[first(tensors)].view(-1)[3:4].fill_(value)


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def other_backbone(load_backbone, **options) -> Files:
    return adapter_files(load_backbone("distilbert"), "lora", **options)


# ---- files

BAD_FILES = {
    "no files that make an adapter": (lambda f: {"README.md": b"x"}, 400, "adapter_config.json"),
    "an empty file": (lambda f: f | {WEIGHTS: b""}, 400, WEIGHTS),
    "weights missing": (lambda f: {CONFIG: f[CONFIG]}, 400, WEIGHTS),
    "config missing": (lambda f: {WEIGHTS: f[WEIGHTS]}, 400, CONFIG),
    "config is no JSON": (lambda f: f | {CONFIG: b"{"}, 400, CONFIG),
    "config is no object": (lambda f: f | {CONFIG: b"[]"}, 400, CONFIG),
    "config is no text": (lambda f: f | {CONFIG: b"\xff\xfe"}, 400, CONFIG),
    "config is nested deeply": (lambda f: f | {CONFIG: b"[" * 100_000}, 400, CONFIG),
    "config is huge": (lambda f: f | {CONFIG: b" " * (5 << 20)}, 400, CONFIG),
    "cut in the middle": (lambda f: f | {WEIGHTS: f[WEIGHTS][: len(f[WEIGHTS]) // 2]}, 400, "damaged"),
    "cut in the header": (lambda f: f | {WEIGHTS: f[WEIGHTS][:100]}, 400, "damaged"),
    "a header of absurd length": (lambda f: f | {WEIGHTS: struct.pack("<Q", 1 << 60) + b"{}"}, 400, "damaged"),
    "random bytes": (lambda f: f | {WEIGHTS: bytes(range(256)) * 40}, 400, "damaged"),
    "NaN in a tensor": (lambda f: with_tensors(f, put(float("nan"))), 400, "NaN|finite"),
    "infinity in a tensor": (lambda f: with_tensors(f, put(float("inf"))), 400, "infinite|finite"),
    "a tensor missing": (lambda f: with_tensors(f, lambda t: t.pop(first(t, "lora_B"))), 422, "B"),
    "a tensor too many": (lambda f: with_tensors(f, lambda t: t.update(stray=torch.ones(1))), 400, "stray"),
    "no tensors": (lambda f: with_tensors(f, lambda t: t.clear()), 400, "no tensors"),
    "another shape": (
        lambda f: with_tensors(f, lambda t: t.update({first(t): torch.ones(3, 31)})), 422, r"\[3, 31\].*\[3, 32\]",
    ),
    "a shape of no dimension": (lambda f: with_tensors(f, lambda t: t.update({first(t): torch.ones(())})), 422, ""),
    "a place that is not there": (
        lambda f: with_tensors(f, lambda t: t.update({"base_model.model.bert.x.lora_A.weight": torch.ones(3, 32)})),
        422,
        "bert.x",
    ),
    "a head without outputs": (
        lambda f: with_tensors(
            f, lambda t: t.update({n: v[:0].clone() for n, v in t.items() if "classifier" in n})
        ), None, "",
    ),
    "a pickle": (lambda f: {CONFIG: f[CONFIG], "adapter_model.bin": pickled()}, 415, "manyhats convert"),
    "a pickle of capital letters": (lambda f: {CONFIG: f[CONFIG], "X.PT": pickled()}, 415, "manyhats convert"),
    "a pickle by another name": (lambda f: f | {WEIGHTS: pickle.dumps({"a": 1})}, 415, "manyhats convert"),
    "torch's pickle by another name": (lambda f: f | {WEIGHTS: pickled()}, 415, "manyhats convert"),
    "a method that is not supported": (lambda f: edited(f, CONFIG, peft_type="OFT"), 422, "OFT"),
    "DoRA": (lambda f: edited(f, CONFIG, use_dora=True), 422, "use_dora"),
    "a bias": (lambda f: edited(f, CONFIG, bias="some"), 422, "bias"),
    "a wrong digest of the backbone": (lambda f: edited(f, "manyhats.json", base_sha256="0" * 64), 422, "0{64}"),
    "labels that do not fit": (lambda f: edited(f, "manyhats.json", task={"labels": ["a"]}), 400, "1 labels.*3"),
    "labels of no form": (lambda f: edited(f, "manyhats.json", task={"labels": 5}), 400, "labels"),
    "an unknown setting": (lambda f: edited(f, "manyhats.json", task={"labls": []}), 400, "labls"),
    "defaults of another kind": (lambda f: edited(f, "manyhats.json", task={"defaults": {"x": 1}}), 400, "x"),
}  # fmt: skip


@pytest.fixture(scope="module")
def live(served: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server, and a client of it that keeps asking one task while all of these tests run."""
    with serving(served, tmp_path_factory.mktemp("uploads") / "store", max_unpacked=8 << 20) as running:
        task = running.add("witness", "bottleneck", labels=4)
        with Witness(running, task) as watching:
            running.witness = watching
            yield running


@pytest.fixture(autouse=True)
def nothing_is_left_and_nobody_noticed(live: Live) -> Iterator[None]:
    """Holds for every test of this module."""
    yield
    wait_until(lambda: not live.staged, "nothing is staged")
    assert not live.witness.wrong, live.witness.wrong[:3]


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_files_are_refused(live: Live, what):
    spoil, status, pattern = BAD_FILES[what]
    good = adapter_files(live.backbone)
    task = fresh("bad")
    answer = live.upload(task, spoil(dict(good)))
    assert_error(answer, status or answer.status_code, pattern)
    assert answer.status_code in (400, 415, 422)
    assert live.staged == []
    assert_error(live.client.get(f"/v1/tasks/{task}"), 404)
    assert live.upload(task, good).status_code == 201


@pytest.mark.parametrize("packed", [False, True])
def test_what_a_trainer_left_is_said_and_not_stored(live: Live, packed: bool):
    good = adapter_files(live.backbone)
    left = {"training_args.bin": pickled(), "LICENSE": b"x", "modeling.py": b"1", ".gitattributes": b""}
    if packed:
        left |= {"checkpoint-1/adapter_model.safetensors": b"x", "runs/a/events.out.tfevents": b""}
    task = fresh("left")
    files = good | left
    answer = live.upload(task, archive=zipped(files)) if packed else live.upload(task, files)
    assert answer.status_code == 201
    (warning,) = answer.json()["warnings"]
    assert all(name.split("/")[0] in warning for name in left)
    stored = live.client.get(f"/v1/tasks/{task}/versions/1/download").content
    with tarfile.open(fileobj=io.BytesIO(stored)) as tar:
        assert {member.name for member in tar if member.isreg()} == set(good)
    plain = live.upload(task, good)
    assert (plain.status_code, plain.json()["sha256"]) == (200, answer.json()["sha256"])


@pytest.mark.parametrize("method", ["lora", "prefix", "bottleneck", "mask"])
@pytest.mark.parametrize("family", ["electra-narrow", "distilbert"])
def test_an_adapter_for_another_backbone_is_refused_with_the_first_difference(
    live: Live, load_backbone: Callable[[str], Backbone], method, family
):
    options = {"length": 5} if method == "prefix" else {}
    files = adapter_files(load_backbone(family), method, **options)
    assert_error(live.upload(fresh(), files), 422, "made for a backbone with sha256")
    files = edited(files, "manyhats.json", base_sha256=None)
    if method == "prefix":
        files = with_tensors(files, lambda t: t.update(prompt_embeddings=torch.ones(5, 64)))
    error = assert_error(live.upload(fresh(), files), 422)
    assert error["param"]
    if method == "prefix":
        assert "[5, 64]" in error["message"]
        assert "128" in error["message"]


def test_fields_of_the_form(live: Live):
    files = adapter_files(live.backbone)
    for form in (
        {"activate": "perhaps"},
        {"alias": "3"},
        {"alias": ""},
        {"task": "{"},
        {"task": "[]"},
        {"task": "5"},
        {"task": '{"labels": ["a"]}'},
        {"task": '{"template": "x"}'},
        {"task": '{"priority": NaN}'},
        {"task": '{"unknown": 1}'},
        {"task": "[" * 10_000},
        {"other": "1"},
    ):
        task = fresh()
        assert_error(live.upload(task, files, **form), 400)
        assert_error(live.client.get(f"/v1/tasks/{task}"), 404)
    assert live.staged == []
    for form in ({}, {"files": "text"}, {"archive": "text"}):
        answer = live.client.post(f"/v1/tasks/{fresh()}/versions", data=form, files={"x": b""} if not form else {})
        assert_error(answer, 400)
    assert_error(live.upload(fresh(), files, archive=b"x"), 400)
    assert_error(live.client.post(f"/v1/tasks/{fresh()}/versions", json={}), 400, "multipart")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x"):
        answer = live.client.post(
            f"/v1/tasks/{fresh()}/versions", content=b"--y\r\nnonsense", headers={"Content-Type": kind}
        )
        assert_error(answer, 400)


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a/b.json", "..", "a\\b.json", "x" * 300])
def test_a_file_name_that_leads_elsewhere_is_refused(live: Live, name):
    answer = live.upload(fresh(), adapter_files(live.backbone) | {name: b"{}"})
    assert_error(answer, answer.status_code)
    assert answer.status_code in (400, 415)
    assert live.staged == []


def test_two_files_of_one_name(live: Live):
    parts = [("files", (CONFIG, b"{}")), ("files", (CONFIG, b"{}"))]
    assert_error(live.client.post(f"/v1/tasks/{fresh()}/versions", files=parts), 400, "two files")


def test_too_many_files(live: Live):
    answer = live.upload(fresh(), {f"f{i}.json": b"{}" for i in range(200)})
    assert_error(answer, answer.status_code)
    assert answer.status_code in (400, 413)
    assert live.staged == []


# ---- archives


def zipped(members: Files, **entry: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = entry.get("attr", 0)
            packed.writestr(info, data)
    return buffer.getvalue()


def tarred(members: Files, mode: str = "w:gz", *extra: tarfile.TarInfo, **headers: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as packed:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = dict(headers)
            packed.addfile(info, io.BytesIO(data))
        for info in extra:
            packed.addfile(info)
    return buffer.getvalue()


def linked(kind: bytes, target: str, name: str = "link.json") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def encrypted(files: Files) -> bytes:
    """A zip whose entries say that they are encrypted."""
    data = bytearray(zipped(files))
    at = -1
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + offset] |= 1
    return bytes(data)


def doubled(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name, data in [*files.items(), (CONFIG, b"{}")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def truncated(data: bytes) -> bytes:
    return data[:9000]


LINK = 0o120777 << 16
BAD_ARCHIVES = {
    "nothing": (lambda f: b"", 415),
    "no archive": (lambda f: b"hello" * 1000, 415),
    "an empty zip": (lambda f: zipped({}), 400),
    "an empty tar": (lambda f: tarred({}), (400, 415)),
    "a zip that climbs": (lambda f: zipped(f | {"../evil.json": b"{}"}), 400),
    "a tar that climbs": (lambda f: tarred(f | {"a/../../evil.json": b"{}"}), 400),
    "a zip with an absolute path": (lambda f: zipped(f | {"/tmp/evil.json": b"{}"}), 400),
    "a tar with an absolute path": (lambda f: tarred(f | {"/tmp/evil.json": b"{}"}), 400),
    "a path of Windows": (lambda f: zipped(f | {"..\\evil.json": b"{}"}), 400),
    "a drive of Windows": (lambda f: zipped(f | {"c:evil.json": b"{}"}), 400),
    "a link in a zip": (lambda f: zipped(f | {"link.json": b"/etc/passwd"}, attr=LINK), 400),
    "a link in a tar": (lambda f: tarred(f, "w:gz", linked(tarfile.SYMTYPE, "/etc/passwd")), 400),
    "a hard link": (lambda f: tarred(f, "w:gz", linked(tarfile.LNKTYPE, CONFIG)), 400),
    "a device": (lambda f: tarred(f, "w:gz", linked(tarfile.CHRTYPE, "")), 400),
    "a pipe": (lambda f: tarred(f, "w:gz", linked(tarfile.FIFOTYPE, "")), 400),
    "a zip that unpacks to much": (lambda f: zipped(f | {"model_head.safetensors": bytes(9 << 20)}), 413),
    "a tar that unpacks to much": (lambda f: tarred(f | {"model_head.safetensors": bytes(9 << 20)}), 413),
    "a zip of many files": (lambda f: zipped(f | {f"{i}.json": b"" for i in range(1100)}), 413),
    "a tar of many files": (lambda f: tarred(f | {f"{i}.json": b"" for i in range(1100)}), 413),
    "a name twice": (doubled, 400),
    "an encrypted zip": (encrypted, 415),
    "a zip cut off": (lambda f: truncated(zipped(f)), (400, 415)),
    "a tar cut off": (lambda f: truncated(tarred(f)), 400),
    "a plain tar cut off": (lambda f: truncated(tarred(f, "w")), 400),
    "a file that is a folder too": (lambda f: tarred(f | {f"{CONFIG}/x.json": b"{}"}), 400),
    "a name that is no text": (lambda f: tarred(f | {"a\udcff.json": b"{}"}, "w:gz"), 400),
    "a pickle inside": (lambda f: zipped({CONFIG: f[CONFIG], "adapter_model.bin": pickled()}), 415),
    "two adapters": (lambda f: zipped({f"{d}/{n}": data for d in "ab" for n, data in f.items()}), (400, 422)),
    "deep folders": (lambda f: zipped({f"a/b/c/d/e/f/{n}": data for n, data in f.items()}), 400),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_ARCHIVES)
def test_bad_archives_are_refused(live: Live, what):
    make, statuses = BAD_ARCHIVES[what]
    task = fresh("bad")
    answer = live.upload(task, archive=make(adapter_files(live.backbone)))
    assert_error(answer, answer.status_code)
    assert answer.status_code in ((statuses,) if isinstance(statuses, int) else statuses), answer.text
    assert live.staged == []
    assert_error(live.client.get(f"/v1/tasks/{task}"), 404)
    assert [path.name for path in live.runtime.settings.store.parent.iterdir()] == ["store"]


@pytest.mark.parametrize(
    "pack", [zipped, tarred, lambda f: tarred(f, "w"), lambda f: zipped({f"top/{n}": d for n, d in f.items()})]
)
def test_good_archives_are_taken(live: Live, pack):
    task = fresh()
    assert live.upload(task, archive=pack(adapter_files(live.backbone))).status_code == 201
    live.outputs(task)


def test_headers_of_an_archive_are_bounded_as_its_files_are(live: Live):
    archive = tarred(adapter_files(live.backbone), comment="x" * (40 << 20))
    assert len(archive) < 1 << 20
    answer = live.upload(fresh(), archive=archive)
    assert_error(answer, answer.status_code)
    assert answer.status_code in (400, 413)


# ---- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = {
    CONFIG: ["peft_type", "r", "lora_alpha", "task_type", "rank_pattern", "alpha_pattern", "use_rslora", "auto_mapping",
             "bias", "init_lora_weights", "base_model_name_or_path", "modules_to_save", "target_modules", "new"],
    "manyhats.json": ["format", "base_model_name_or_path", "base_sha256", "head", "task", "shapes", "new"],
    "head_config.json": ["config", "name", "new"],
}  # fmt: skip


@tried(20, 100)
@pytest.mark.parametrize("method", ["lora", "prefix", "bottleneck", "mask"])
def test_whatever_the_configs_say_the_server_does_not_fail(live: Live, method, amount):
    good = adapter_files(live.backbone, method)
    fields = [(file, field) for file in FIELDS if file in good for field in FIELDS[file]]
    if method == "bottleneck":
        inner = json.loads(good[CONFIG])["config"]
        fields = [f for f in fields if f[0] != CONFIG] + [(CONFIG, "config"), (CONFIG, "name"), (CONFIG, "version")]

    @given(change=st.sampled_from(fields), value=JSON)
    @settings(max_examples=amount, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def check(change, value):
        file, field = change
        if method == "bottleneck" and change == (CONFIG, "config") and isinstance(value, dict):
            value = inner | value
        answer = live.upload("anything", edited(good, file, **{field: value}))
        assert answer.status_code < 500, answer.text
        if answer.status_code in (200, 201):
            shown = live.client.get("/v1/tasks/anything")
            assert shown.status_code == 200, shown.text
            json.loads(shown.text, parse_constant=pytest.fail)
            asked = live.ask("anything")
            assert asked.status_code == 200, asked.text
            json.loads(asked.text, parse_constant=pytest.fail)
            live.client.delete("/v1/tasks/anything")
        else:
            assert_error(answer, answer.status_code)

    check()


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_byte_is_changed_the_server_does_not_fail(live: Live, data):
    good = adapter_files(live.backbone, seed=1)
    weights = bytearray(good[WEIGHTS])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 3000) | st.integers(0, len(weights) - 1))
        weights[at] = data.draw(st.integers(0, 255))
    answer = live.upload("changed", good | {WEIGHTS: bytes(weights)})
    assert answer.status_code < 500, answer.text
    if answer.status_code in (200, 201):
        asked = live.ask("changed")
        if asked.status_code == 200:
            json.loads(asked.text, parse_constant=pytest.fail)
        else:
            assert_error(asked, 500, "finite")
        live.client.delete("/v1/tasks/changed")
    else:
        assert_error(answer, answer.status_code)


# ---- sizes and broken connections


def test_an_upload_over_the_limit_is_refused(start):
    with start(max_upload=100_000) as live:
        big = adapter_files(live.backbone) | {"README.md": b"x" * (2 << 20)}
        for _ in range(2):
            assert_error(live.upload(fresh(), big), 413, "bytes")
        assert live.staged == []
        assert live.upload(fresh(), adapter_files(live.backbone)).status_code == 201


@pytest.mark.parametrize("cut", [200, 20_000])
def test_an_upload_that_breaks_off_leaves_nothing(live: Live, cut):
    boundary = "xyz"
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{{}}"\r\n\r\n'
    files = adapter_files(live.backbone) | {"README.md": b"y" * (3 << 20)}
    body = b"".join(part.format(name).encode() + data + b"\r\n" for name, data in reversed(files.items()))
    task = fresh("broken")
    head = post_head(f"/v1/tasks/{task}/versions", length=len(body), kind=f"multipart/form-data; boundary={boundary}")
    for piece in (head, head + body[:cut], head + body[:-1]):
        raw(live, piece).close()
    assert live.upload(fresh(), adapter_files(live.backbone)).status_code == 201
    wait_until(lambda: not live.staged, "nothing is staged")
    assert_error(live.client.get(f"/v1/tasks/{task}"), 404)


def test_more_uploads_than_may_be_under_way(start):
    with start(max_uploads=2) as live:
        head = post_head(f"/v1/tasks/{fresh()}/versions", length=500, kind="multipart/form-data; boundary=z")
        held = [raw(live, head + b"--z") for _ in range(2)]
        wait_until(lambda: live.runtime.uploads == 2, "two uploads are under way")
        answer = live.upload(fresh(), adapter_files(live.backbone))
        assert_error(answer, 429, "2 uploads are under way")
        assert int(answer.headers["Retry-After"]) >= 1
        for connection in held:
            connection.close()
        wait_until(lambda: not live.runtime.uploads, "no upload is under way")
        assert live.upload(fresh(), adapter_files(live.backbone)).status_code == 201


def test_uploads_take_no_threads_from_predictions(start, monkeypatch):
    """However many are checked, unpacked or written, and however long that takes."""
    opened = threading.Event()

    def held(inspect, *given):
        assert opened.wait(PATIENCE)
        return inspect(*given)

    with start(upload_threads=2) as live:
        task = live.add("asked")
        monkeypatch.setattr(live.runtime.registry, "_inspect", partial(held, live.runtime.reader.inspect))
        files = adapter_files(live.backbone)
        clients = [live.new_client() for _ in range(30)]
        senders = [threading.Thread(target=live.upload, args=(fresh(), files), kwargs={"client": c}) for c in clients]
        for sender in senders:
            sender.start()
        try:
            wait_until(lambda: live.runtime.uploads == 30, "all uploads are under way")
            wait_until(lambda: live.runtime.threads.checking.borrowed_tokens == 2, "two are checked")
            live.outputs(task, [f"w{i}" for i in range(20)])
            assert live.client.put(f"/v1/tasks/{task}", json={"priority": 1}).status_code == 200
            assert live.runtime.threads.checking.borrowed_tokens == 2
        finally:
            opened.set()
            for sender in senders:
                sender.join()
            for client in clients:
                client.close()


SETTINGS = {
    "labels of another number": {"labels": ["a"]},
    "labels that are alike": {"labels": ["a", "a", "b"]},
    "more tokens than the backbone takes": {"max_tokens": 100_000},
    "a number beyond all bounds": {"max_tokens": 10**30},
    "defaults of no parameter": {"defaults": {"evil": 1}},
    "defaults of another type": {"defaults": {"top_k": "many"}},
    "a template without text": {"template": "x"},
    "a flag that is a text": {"pinned": "yes"},
    "pooling of no kind": {"pooling": "evil"},
    "no field": {"evil": 1},
    "half a character": {"labels": ["\ud800", "b", "c"]},
}


@pytest.mark.parametrize("what", SETTINGS)
def test_an_uploads_settings_are_refused_as_those_that_are_put(live: Live, what):
    files, task = adapter_files(live.backbone), fresh("put")
    assert live.upload(task, files).status_code == 201
    text = json.dumps(SETTINGS[what])
    put = live.client.put(f"/v1/tasks/{task}", content=text, headers={"Content-Type": "application/json"})
    sent = live.upload(fresh("sent"), files, task=text)
    assert put.status_code == sent.status_code == 400
    assert sent.json()["error"]["param"] == put.json()["error"]["param"]
    names = re.compile("(put|sent)-[0-9]+")
    said = [names.sub("task", answer.json()["error"]["message"]) for answer in (put, sent)]
    assert said[0] in said[1]


def test_null_in_an_uploads_settings_goes_back_to_what_the_files_bring(live: Live):
    files, task = adapter_files(live.backbone), fresh()
    assert live.upload(task, files, task='{"template": "a {text}", "max_tokens": 9}').status_code == 201
    assert live.upload(task, files, task='{"template": null, "defaults": null}').status_code == 200
    shown = live.client.get(f"/v1/tasks/{task}").json()
    assert (shown["template"], shown["max_tokens"]) == (None, 9)


@pytest.mark.parametrize("packed", [False, True])
def test_a_card_that_is_too_long_is_left_out(live: Live, packed):
    good = adapter_files(live.backbone)
    files, task = good | {"README.md": b"\xff" * (2 << 20)}, fresh()
    answer = live.upload(task, archive=zipped(files)) if packed else live.upload(task, files)
    assert answer.status_code == 201
    assert "README.md (it has 2097152 bytes" in answer.json()["warnings"][0]
    assert live.client.get(f"/v1/tasks/{task}/versions/1").json()["card"] is None


# ---- at the same time


def test_two_uploads_of_one_task_at_once_do_not_mix(live: Live):
    for _ in range(5):
        task = fresh()
        several = [adapter_files(live.backbone, labels=n) for n in (2, 3)]
        several = [*several, several[0]]

        def send(files: Files, task: str = task) -> dict:
            with live.new_client() as client:
                answer = live.upload(task, files, client=client)
            assert answer.status_code in (200, 201)
            return answer.json()

        one, other, again = at_once(*(partial(send, files) for files in several))
        assert {one["version"], other["version"]} == {1, 2}
        assert (again["version"], again["sha256"]) == (one["version"], one["sha256"])
        assert one["sha256"] != other["sha256"]
        for body, labels in ((one, 2), (other, 3)):
            assert len(live.outputs(f"{task}@{body['version']}", "w1")[0]["scores"]) == labels
        shown = live.client.get(f"/v1/tasks/{task}").json()
        assert len(shown["versions"]) == 2
        assert shown["aliases"]["stable"] in (1, 2)
    assert live.staged == []


def test_a_new_version_during_requests_never_mixes(live: Live):
    files = [adapter_files(live.backbone, labels=n) for n in (2, 3, 4, 5)]
    task = fresh()
    live.upload(task, files[0])
    stop: list[bool] = []
    seen: list[dict] = []

    def ask() -> None:
        with live.new_client() as client:
            while not stop:
                answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": ["w1", "w2"]})
                assert answer.status_code == 200, answer.text
                seen.append(answer.json())

    def send() -> None:
        try:
            for i in range(8):
                before = len(seen)
                wait_until(lambda before=before: len(seen) > before + 2, "answers between the uploads")
                with live.new_client() as client:
                    assert live.upload(task, files[i % 4], client=client).status_code in (200, 201)
        finally:
            stop.append(True)

    at_once(ask, ask, send)
    expected = {v: live.outputs(f"{task}@{v}", ["w1", "w2"]) for v in (1, 2, 3, 4)}
    hashes = {v["version"]: v["sha256"] for v in live.client.get(f"/v1/tasks/{task}").json()["versions"]}
    assert all(body["sha256"] == hashes[body["version"]] for body in seen)
    assert all(close(body["outputs"], expected[body["version"]]) for body in seen)
    assert len({body["version"] for body in seen}) > 1
    live.wait_idle()
