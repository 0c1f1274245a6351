"""A stand-in for the hub's API on 127.0.0.1: repositories, uploads of small and of large files, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from fake_endpoint import Answer, FakeServer


def _said(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode())


class FakeHub(FakeServer):
    """Keeps what it is sent.

    Fields:
        repos: by name, each with `private` and its `files`.
        tokens: the Authorization of every request about a repository.
        refuses: what it says, with status 403, when something is to be committed; None: it takes it.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.tokens: set[str | None] = set()
        self.refuses: str | None = None
        self.stored: dict[str, bytes] = {}
        self.commits = 0
        super().__init__()

    def decoded(self, path: str, body: bytes) -> Any:
        if "/commit/" in path:
            return [json.loads(line) for line in body.splitlines()]
        return super().decoded(path, body)

    def answer(self, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        if path.startswith("/put/"):
            self.stored[hashlib.sha256(body).hexdigest()] = body
            return Answer()
        if path.startswith(("/api/repos/", "/api/models/")):
            self.tokens.add(headers.get("Authorization"))
        if path == "/api/repos/create":
            return self._create(body)
        if path == "/api/validate-yaml":
            return _said({"warnings": [], "errors": []})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.root}/put/{one['oid']}"}}} for one in body["objects"]
            ]
            return _said({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/preupload/main|/commit/main|)", path.partition("?")[0])
        if found is None or found[1] not in self.repos:
            return _said({"error": "Repository not found"}, 404)
        repo = self.repos[found[1]]
        if found[2] == "":
            siblings = [{"rfilename": name} for name in (".gitattributes", *repo["files"])]
            return _said({"id": found[1], "private": repo["private"], "siblings": siblings, "sha": "0" * 40})
        if found[2].startswith("/preupload"):
            large = {name["path"]: name["path"].endswith(".safetensors") for name in body["files"]}
            modes = [
                {"path": name, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
                for name, lfs in large.items()
            ]
            return _said({"files": modes})
        if self.refuses is not None:
            return _said({"error": self.refuses}, 403)
        return self._commit(found[1], body)

    def _create(self, body: Mapping[str, Any]) -> Answer:
        name = f"{body['organization'] or 'me'}/{body['name']}"
        if name in self.repos:
            return _said({"error": "You already created this model repo"}, 409)
        self.repos[name] = {"private": body.get("private") or body.get("visibility") == "private", "files": {}}
        return _said({"url": f"{self.root}/{name}", "name": name, "id": "1"})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> Answer:
        self.commits += 1
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                self.repos[name]["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.repos[name]["files"][value["path"]] = self.stored[value["oid"]]
        return _said({"success": True, "commitUrl": f"{self.root}/{name}/commit/1", "commitOid": "1" * 40})
