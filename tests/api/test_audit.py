"""`/v1/audit`: what was changed over HTTP, and by whom."""

from __future__ import annotations

from pathlib import Path

from manyhats.access.keys import KeyFile
from manyhats.api.app import openapi_schema
from manyhats.api.audit import AuditList

from tests.api.live import adapter_files, assert_error
from tests.api.test_answers import assert_answers


def test_each_change_over_http_has_an_entry(start, tmp_path: Path) -> None:
    paths = openapi_schema()["paths"]
    file = KeyFile(tmp_path / "keys.json")
    key = file.create("ci", scopes=["admin", "upload"], tenant="team")[1]
    with start(keys_file=file.path) as live:
        client = live.client
        client.headers["Authorization"] = f"Bearer {key}"
        for _ in range(2):
            assert live.upload("spam", adapter_files(live.backbone)).status_code == 201
        t = "/v1/tasks/spam"
        for method, path, body in (
            ("PUT", t, {"priority": 1}),
            ("PUT", f"{t}/aliases/stable", {"version": 1}),
            ("POST", f"{t}/rollback", None),
            ("POST", f"{t}/load", None),
            ("POST", f"{t}/unload", None),
            ("POST", f"{t}/pin", None),
            ("POST", f"{t}/unpin", None),
            ("DELETE", f"{t}/versions/1", None),
            ("DELETE", t, None),
        ):
            headers = {"X-Request-Id": f"{method}-{path}"}
            assert client.request(method, path, json=body, headers=headers).is_success
        answer = client.get("/v1/audit")
        body = assert_answers(paths, "GET /v1/audit", AuditList, answer)
        found = body["data"][::-1]
        assert [one["action"] for one in found] == [
            *("upload", "upload", "settings", "alias", "rollback", "load", "unload", "pin", "unpin"),
            *("delete_version", "delete_task"),
        ]
        assert {(one["actor"], one["tenant"]) for one in found} == {("ci", "team")}
        assert found[3]["request_id"] == f"PUT-{t}/aliases/stable"
        assert found[3]["from_versions"] == [{"version": 2, "weight": 1.0}]
        assert found[3]["to_versions"] == [{"version": 1, "weight": 1.0}]
        page = client.get("/v1/audit", params={"limit": 2}).json()
        assert [one["action"] for one in page["data"]] == ["delete_task", "delete_version"]
        after = client.get("/v1/audit", params={"limit": 2, "page_token": page["next_page_token"]}).json()
        assert [one["action"] for one in after["data"]] == ["unpin", "pin"]
        assert client.get("/v1/audit", params={"task": "other"}).json()["data"] == []
        assert_error(client.get("/v1/audit", params={"page_token": "x"}), 400, "page_token")
        assert_error(client.get("/v1/audit", params={"limit": 0}), 400, "limit")
