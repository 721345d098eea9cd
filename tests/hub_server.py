"""A small Hub on a loopback address, as far as huggingface_hub's client talks to one in a push and in loading back.

It keeps repos in memory, checks what it is sent (token, sha256, parent of a commit, metadata of a card) and can be told
to fail: `server.faults.append(Fault("PUT", "/lfs/", status=500))`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_" + "t" * 34
USER = "me"
INLINE = (".md", ".json", ".py", ".gitattributes")


@dataclass
class Fault:
    """What goes wrong, `times` times, in requests of this method whose path contains `path`.

    :param action: "status" answers `status`; "drop" closes the connection with the body half read; "lose" carries the
        request out and closes the connection without an answer; "damage" changes a byte of the body; "slow" waits.
    """

    method: str
    path: str
    status: int = 500
    times: int = 1
    action: str = "status"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Commit:
    """`files`: path to (content, whether it is in large file storage)."""

    sha: str
    title: str
    files: dict[str, tuple[bytes, bool]]
    parent: str | None


@dataclass
class Repo:
    """`refs`: branches and pull requests by name, to the sha of their last commit."""

    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.refs.get(revision, revision))

    def add(self, ref: str, title: str, files: dict[str, tuple[bytes, bool]], parent: str | None) -> Commit:
        sha = hashlib.sha1(f"{title}{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, files, parent)
        self.refs[ref] = sha
        return self.commits[sha]


class HubServer(ThreadingHTTPServer):
    """The state of the Hub, and a record of what it was asked: (method, path, bytes of body).

    A Space is a repo whose name begins with "spaces/", a data set one whose name begins with "datasets/".
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.role = "write"
        self.lock = threading.RLock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def make_repo(self, repo_id: str, files: dict[str, bytes] | None = None, private: bool = False) -> Repo:
        """A repo with a first commit, as the Hub makes one."""
        repo = self.repos[repo_id] = Repo(private)
        start = {".gitattributes": b""} | (files or {})
        repo.add("main", "initial commit", {name: (content, False) for name, content in start.items()}, None)
        return repo

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is no news."""


class Answered(Exception):
    """Ends a request early, once it is answered or its connection closed."""


class Handler(BaseHTTPRequestHandler):
    """One request; `_routes` maps method and path to what it does."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def _routes(self):
        repo = r"(?P<repo>(?:spaces/|datasets/)?[^/]+/[^/]+)"
        model = rf"/api/models/{repo}"
        return [
            ("GET", r"/api/whoami-v2", self._whoami),
            ("POST", r"/api/validate-yaml", self._validate),
            ("POST", r"/api/repos/create", self._create),
            ("GET", rf"{model}/auth-check/write", self._authorize),
            ("POST", rf"{model}/branch/(?P<revision>.+)", self._branch),
            ("POST", rf"{model}/preupload/(?P<revision>.+)", self._preupload),
            ("POST", rf"{model}/commit/(?P<revision>.+)", self._commit),
            ("GET", rf"{model}/tree/(?P<revision>[^/]+)", self._tree),
            ("GET", rf"{model}/tree/(?P<revision>[^/]+)/(?P<folder>.+)", self._tree),
            ("POST", rf"{model}/paths-info/(?P<revision>[^/]+)", self._paths),
            ("GET", rf"{model}/revision/(?P<revision>.+)", self._info),
            ("GET", model, self._info),
            ("POST", rf"/{repo}\.git/info/lfs/objects/batch", self._batch),
            ("POST", r"/lfs/verify", self._verify),
            ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", self._store),
            (
                "(?:GET|HEAD)",
                rf"/{repo}/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
                self._resolve,
            ),
        ]

    def _handle(self) -> None:
        with contextlib.suppress(Answered):
            self._route()

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _route(self) -> None:
        url = urlsplit(self.path)
        path, self.query = re.sub("^/api/(spaces|datasets)/", r"/api/models/\1/", url.path), parse_qs(url.query)
        size = int(self.headers.get("Content-Length") or 0)
        with self.server.lock:
            self.server.requests.append((self.command, path, size))
            fault = next(
                (f for f in self.server.faults if f.times and f.method == self.command and f.path in path), None
            )
            if fault is not None:
                fault.times -= 1
        self.lost = fault is not None and fault.action == "lose"
        if fault is not None and fault.action == "drop":
            self.rfile.read(size // 2)
            self._close()
        self.body = self._read_body(size)
        if fault is not None and fault.action == "status":
            self._answer({"error": "as the test wanted"}, fault.status, fault.headers)
        if fault is not None and fault.action == "damage":
            self.body = bytes([self.body[0] ^ 1]) + self.body[1:]
        if fault is not None and fault.action == "slow":
            time.sleep(0.3)
        for method, pattern, action in self._routes():
            match = re.fullmatch(pattern, path)
            if match and re.fullmatch(method, self.command):
                with self.server.lock:
                    action(**{name: unquote(value) for name, value in match.groupdict().items()})
        self._answer({"error": f"{self.command} {path} is not part of this Hub"}, 404)

    def _read_body(self, size: int) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(size)
        body = b""
        while length := int(self.rfile.readline(), 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(
        self, value=None, status: int = 200, headers: dict[str, str] | None = None, content: bytes = b""
    ) -> None:
        if self.lost:
            self._close()
        content = content if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        raise Answered

    def _close(self) -> None:
        self.close_connection = True
        self.connection.close()
        raise Answered

    def log_message(self, *_) -> None:
        """Quiet."""

    def _repo(self, repo: str) -> Repo:
        found = self.server.repos.get(repo)
        if found is None or (found.private and not self._known()):
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        return found

    def _at(self, repo: str, revision: str) -> Commit:
        commit = self._repo(repo).at(revision)
        if commit is None:
            self._answer({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
        return commit

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _authorize(self, repo: str = f"{USER}/") -> None:
        """Goes on only where the token may write in the repo's namespace."""
        if not self._known():
            message = "Invalid credentials in Authorization header"
            self._answer({"error": message}, 401, {"X-Error-Message": message})
        if repo.removeprefix("spaces/").split("/")[0] not in (USER, "hospital") or self.server.role == "read":
            self._answer({"error": "no rights"}, 403, {"X-Error-Message": "no rights"})
        if self.path.endswith("/auth-check/write"):
            self._repo(repo)
            self._answer({})

    def _whoami(self) -> None:
        if not self._known():
            self._answer({"error": "Invalid username or password."}, 401)
        orgs = [{"name": "hospital", "roleInOrg": "write"}, {"name": "journal", "roleInOrg": "read"}]
        self._answer({"name": USER, "orgs": orgs, "auth": {"accessToken": {"role": self.server.role}}})

    def _validate(self) -> None:
        match = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], flags=re.DOTALL)
        data = yaml.safe_load(match.group(1)) if match else {}
        bad = [k for k in ("license", "pipeline_tag", "library_name") if not isinstance(data.get(k, ""), str)]
        errors = [{"message": f'"{name}" must be a string'} for name in bad]
        if json.loads(self.body)["repoType"] == "space" and data.get("sdk") != "static":
            errors.append({"message": '"sdk" must be static'})
        self._answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _create(self) -> None:
        wanted = json.loads(self.body)
        repo_id = f"{wanted.get('organization') or USER}/{wanted['name']}"
        if wanted.get("type") == "space":
            repo_id = f"spaces/{repo_id}"
            if wanted.get("sdk") != "static":
                self._answer({"error": "a Space needs an SDK"}, 400)
        self._authorize(repo_id)
        url = {"url": f"{self.server.endpoint}/{repo_id}"}
        if repo_id in self.server.repos:
            self._answer(url | {"error": "You already created this model repo"}, 409)
        self.server.make_repo(repo_id, private=wanted.get("visibility") == "private" or wanted.get("private", False))
        self._answer(url)

    def _branch(self, repo: str, revision: str) -> None:
        self._authorize(repo)
        if revision in self._repo(repo).refs:
            self._answer({"error": "Reference already exists"}, 409)
        self._repo(repo).refs[revision] = self._repo(repo).refs["main"]
        self._answer({}, 201)

    def _preupload(self, repo: str, revision: str) -> None:
        self._authorize(repo)
        held = self._at(repo, revision).files
        files = []
        for file in json.loads(self.body)["files"]:
            mode = "regular" if file["path"].endswith(INLINE) else "lfs"
            oid = _oid(*held[file["path"]]) if file["path"] in held else None
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer({"files": files})

    def _batch(self, repo: str) -> None:
        self._authorize(repo)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.server.endpoint}/lfs/{wanted['oid']}"}}
            actions["verify"] = {"href": f"{self.server.endpoint}/lfs/verify"}
            objects.append(wanted | ({} if wanted["oid"] in self.server.large else {"actions": actions}))
        self._answer({"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._answer({"error": "sha256 does not match"}, 422)
        self.server.large[oid] = self.body
        self._answer({})

    def _verify(self) -> None:
        wanted = json.loads(self.body)
        found = self.server.large.get(wanted["oid"])
        self._answer({}, 200 if found is not None and len(found) == wanted["size"] else 404)

    def _commit(self, repo: str, revision: str) -> None:
        pull_request = self.query.get("create_pr") == ["1"]
        self._authorize(repo)
        parent = self._at(repo, revision)
        header, *lines = [json.loads(line) for line in self.body.splitlines()]
        if header["value"].get("parentCommit", parent.sha) != parent.sha:
            self._answer({"error": "The branch has moved"}, 412)
        files = dict(parent.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile" and value["oid"] in self.server.large:
                files[value["path"]] = (self.server.large[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                self._answer({"error": f"{line['key']} {value['path']} was not uploaded"}, 400)
        ref = f"refs/pr/{len(self._repo(repo).refs)}" if pull_request else revision
        commit = self._repo(repo).add(ref, header["value"]["summary"], files, parent.sha)
        url = f"{self.server.endpoint}/{repo}"
        answer = {"commitUrl": f"{url}/commit/{commit.sha}", "commitOid": commit.sha}
        self._answer(answer | ({"pullRequestUrl": f"{url}/discussions/1"} if pull_request else {}))

    def _info(self, repo: str, revision: str = "main") -> None:
        commit = self._at(repo, revision)
        siblings = [{"rfilename": name} for name in sorted(commit.files)]
        name = repo.removeprefix("spaces/")
        answer = {"id": name, "modelId": name, "sha": commit.sha, "siblings": siblings, "tags": []}
        self._answer(answer | {"private": self._repo(repo).private})

    def _tree(self, repo: str, revision: str, folder: str = "") -> None:
        files, start = self._at(repo, revision).files, f"{folder}/" if folder else ""
        inside = {name: file for name, file in sorted(files.items()) if name.startswith(start)}
        entries = [_entry(name, *file) for name, file in inside.items()]
        if self.query.get("recursive", [""])[0].lower() != "true":
            folders = {start + name.removeprefix(start).split("/")[0] for name in inside} - inside.keys()
            entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(start)]
            entries += [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)]
        self._answer(entries)

    def _paths(self, repo: str, revision: str) -> None:
        files = self._at(repo, revision).files
        wanted = json.loads(self.body)["paths"]
        self._answer([_entry(name, *files[name]) for name in wanted if name in files])

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        commit = self._at(repo, revision)
        known = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            self._answer({"error": "Entry not found"}, 404, known | {"X-Error-Code": "EntryNotFound"})
        content, large = commit.files[path]
        tag = f'"{_oid(content, large)}"'
        linked = {"X-Linked-Etag": tag, "X-Linked-Size": str(len(content))} if large else {}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            self._answer(None, 200, known | linked | {"ETag": tag}, content)
        first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        place = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "ETag": tag}
        self._answer(None, 206, known | linked | place, content[first : last + 1])


def _entry(name: str, content: bytes, large: bool) -> dict[str, Any]:
    """A file as the Hub lists it."""
    entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    pointer = {"oid": _oid(content, True), "size": len(content), "pointerSize": 130}
    return entry | ({"lfs": pointer} if large else {})


def _oid(content: bytes, large: bool) -> str:
    """As the Hub names a file's content: sha256, or git's own hash of a small file."""
    return (
        hashlib.sha256(content).hexdigest()
        if large
        else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    )
