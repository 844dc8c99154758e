"""
A Hub for tests, in memory: the part of the Hub's HTTP interface that `huggingface_hub` uses for model repositories.

Binary and large files are uploaded through LFS, as on the Hub: a batch request, PUTs (several parts above `part_size`)
and a verification. Downloads are redirected. Two users have tokens, `WRITER` and `READER`.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITER, READER = "hf_" + "writerwriter", "hf_" + "readerreader"
_USERS = {WRITER: "me", READER: "you"}
# The entries of the Hub's lists that the tests use.
_LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "bsd-3-clause", "other"}
_TASKS = {"feature-extraction", "image-feature-extraction", "video-classification", "image-classification"}
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PAGE = 10  # entries of a tree listing


@dataclass
class File:
    data: bytes
    is_lfs: bool

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def entry(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.data), "oid": self.blob_id}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}
        return entry


@dataclass
class Repository:
    owner: str
    private: bool = False
    gated: bool = False
    trees: dict[str, dict[str, File]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, tree: dict[str, File], title: str) -> str:
        parent = self.branches.get(branch, "")
        listing = "".join(f"{path} {file.blob_id}\n" for path, file in sorted(tree.items()))
        oid = hashlib.sha1(f"{parent}\n{title}\n{len(self.trees)}\n{listing}".encode()).hexdigest()
        self.trees[oid], self.titles[oid], self.branches[branch] = tree, title, oid
        return oid

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return {path: file.data for path, file in self.trees[self.branches[branch]].items()}

    @property
    def history(self) -> list[str]:
        """Titles of all commits. The Hub itself makes the first one."""
        return list(self.titles.values())


class HubServer(ThreadingHTTPServer):
    """
    `faults` is the number of uploads (`"store"`) and commits (`"commit"`) whose connection will break off.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.part_size = 50_000
        self.faults: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.uploaded_bytes = 0
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def breaks(self, kind: str) -> bool:
        with self.lock:
            if not self.faults[kind]:
                return False
            self.faults[kind] -= 1
            return True

    def handle_error(self, request, client_address) -> None:
        """Quiet: some tests break connections off."""


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


_API = r"/api/models/(?P<repo>[^/]+/[^/]+?)"
_ROUTES = [
    ("POST", r"/control", "control"),
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", _API, "info"),
    ("GET", _API + r"/revision/(?P<revision>[^/]+)", "info"),
    ("GET", _API + r"/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", "tree"),
    ("GET", _API + r"/refs", "refs"),
    ("GET", _API + r"/commits/(?P<revision>[^/]+)", "commits"),
    ("POST", _API + r"/paths-info/(?P<revision>[^/]+)", "paths"),
    ("POST", _API + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", _API + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", _API + r"/branch/(?P<revision>[^/]+)", "branch"),
    ("POST", r"/(?P<repo>[^/]+/[^/]+?)\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/(?P<oid>\w+)(/(?P<part>\d+))?", "store"),
    ("POST", r"/lfs/(?P<oid>\w+)/complete", "complete"),
    ("POST", r"/lfs/(?P<oid>\w+)/verify", "verify"),
    ("GET", r"/lfs/(?P<oid>\w+)", "fetch"),
    ("GET", r"/(?P<repo>[^/]+/[^/]+?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]
_ROUTES = [(method, re.compile(pattern), name) for method, pattern, name in _ROUTES]


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    # Every request

    def _serve(self) -> None:
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        method = "GET" if self.command == "HEAD" else self.command
        for expected, pattern, name in _ROUTES:  # noqa: B007
            found = pattern.fullmatch(address.path)
            if found and expected == method:
                break
        else:
            self._read()
            self._answer(404, {"error": f"no route {self.path}"})
            return
        self.server.requests[f"{self.command} {name}"] += 1
        try:
            if name in ("store", "commit") and self.server.breaks(name):
                self._break_off()
                return
            self.body = self._read()
            given = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
            with self.server.lock:
                getattr(self, name)(**given)
        except _Refused as refusal:
            headers = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            self._answer(refusal.status, {"error": refusal.message}, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _read(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _break_off(self) -> None:
        """Reads a little of the body and resets the connection."""
        self.rfile.read(min(64, int(self.headers.get("Content-Length") or 1)))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _answer(self, status: int, content: object = b"", headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # Users and access

    def _user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in _USERS:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return _USERS.get(token)

    def _repository(self, repo: str, *, writes: bool = False, reads_files: bool = False) -> Repository:
        user = self._user()
        found = self.server.repositories.get(repo)
        if found is None or (found.private and user != found.owner):
            raise _Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if writes and user != found.owner:
            raise _Refused(403, f"Forbidden: {user} may not write to {repo}")
        if reads_files and found.gated and user != found.owner:
            raise _Refused(403 if user else 401, f"Access to model {repo} is restricted", "GatedRepo")
        return found

    @staticmethod
    def _revision(repository: Repository, revision: str) -> str:
        oid = repository.branches.get(revision, revision)
        if oid not in repository.trees:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    def _json(self) -> dict:
        return json.loads(self.body)

    def control(self) -> None:
        """Not part of the Hub's interface: sets faults, and returns the number of bytes uploaded to LFS."""
        self.server.faults.update(self._json())
        self._answer(200, {"uploaded_bytes": self.server.uploaded_bytes})

    # Accounts, repositories, cards

    def whoami(self) -> None:
        user = self._user()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        self._answer(200, {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}})

    def create(self) -> None:
        user, wanted = self._user(), self._json()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        owner = wanted.get("organization") or user
        repo = f"{owner}/{wanted['name']}"
        if owner != user:
            raise _Refused(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        content = {"url": f"{self.server.url}/{repo}", "name": repo, "id": repo}
        if repo in self.server.repositories:
            self._answer(409, {**content, "error": "You already created this model repo"})
            return
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.server.repositories[repo] = Repository(owner, private=bool(private))
        attributes = {".gitattributes": File(b"*.safetensors filter=lfs\n", False)}
        self.server.repositories[repo].commit("main", attributes, "initial commit")
        self._answer(200, content)

    def validate(self) -> None:
        errors = card_errors(self._json()["content"])
        content = {"errors": [{"message": message} for message in errors], "warnings": []}
        self._answer(400 if errors else 200, content)

    def info(self, repo: str, revision: str = "main") -> None:
        repository = self._repository(repo)
        oid = self._revision(repository, revision)
        siblings = [{"rfilename": path} for path in sorted(repository.trees[oid])]
        content = {"id": repo, "modelId": repo, "sha": oid, "siblings": siblings, "tags": [], "downloads": 0}
        self._answer(200, {**content, "private": repository.private, "gated": "auto" if repository.gated else False})

    def refs(self, repo: str) -> None:
        branches = self._repository(repo).branches
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in branches.items()]
        self._answer(200, {"branches": listed, "tags": [], "converts": []})

    def branch(self, repo: str, revision: str) -> None:
        repository = self._repository(repo, writes=True)
        if revision in repository.branches:
            raise _Refused(409, "Reference already exists")
        start = (self._json() if self.body else {}).get("startingPoint", "main")
        repository.branches[revision] = self._revision(repository, start)
        self._answer(200, {})

    def commits(self, repo: str, revision: str) -> None:
        titles = self._repository(repo).titles
        listed = [
            {"id": oid, "title": title, "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
            for oid, title in reversed(titles.items())
        ]
        self._answer(200, listed)

    # Reading

    def tree(self, repo: str, revision: str, path: str = "") -> None:
        repository = self._repository(repo)
        tree = repository.trees[self._revision(repository, revision)]
        prefix = f"{path}/" if path else ""
        inside = {name: file for name, file in sorted(tree.items()) if name.startswith(prefix)}
        if path and not inside:
            raise _Refused(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        entries = []
        for name, file in inside.items():
            folder, _, rest = name.removeprefix(prefix).partition("/")
            directory = {"type": "directory", "path": prefix + folder, "oid": "0" * 40, "size": 0}
            if rest and directory not in entries:
                entries.append(directory)
            if not rest or self.query.get("recursive", ["false"])[0].lower() in ("true", "1"):
                entries.append(file.entry(name))
        start = int(self.query.get("cursor", ["0"])[0])
        headers = {}
        if start + _PAGE < len(entries):
            query = "&".join(f"{key}={value[0]}" for key, value in self.query.items() if key != "cursor")
            following = f"{self.server.url}{urlsplit(self.path).path}?{query}&cursor={start + _PAGE}"
            headers["Link"] = f'<{following}>; rel="next"'
        self._answer(200, entries[start : start + _PAGE], headers)

    def paths(self, repo: str, revision: str) -> None:
        repository = self._repository(repo)
        tree = repository.trees[self._revision(repository, revision)]
        wanted = parse_qs(self.body.decode()).get("paths", [])
        self._answer(200, [tree[path].entry(path) for path in wanted if path in tree])

    def resolve(self, repo: str, revision: str, path: str) -> None:
        repository = self._repository(repo, reads_files=True)
        oid = self._revision(repository, revision)
        file = repository.trees[oid].get(path)
        headers = {"X-Repo-Commit": oid}
        if file is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._answer(404, b"Entry not found", headers)
        elif file.is_lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
            # The storage is another host, as on the Hub, so clients must not send tokens there.
            storage = self.server.url.replace("127.0.0.1", "localhost")
            self._answer(302, b"", headers | {"Location": f"{storage}/lfs/{file.sha256}"})
        else:
            self._content(file.data, headers | {"ETag": f'"{file.blob_id}"'})

    def fetch(self, oid: str) -> None:
        if "Authorization" in self.headers:
            raise _Refused(400, "the storage got a token, but needs none")
        self._content(self.server.stored[oid], {"ETag": f'"{oid}"'})

    def _content(self, data: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self._answer(206, data[first : last + 1], headers)
        elif self.command == "HEAD":
            self._answer(200, b"", headers | {"Content-Length": str(len(data))})
        else:
            self._answer(200, data, headers)

    # Writing

    def preupload(self, repo: str, revision: str) -> None:
        repository = self._repository(repo, writes=True)
        tree = repository.trees[self._revision(repository, revision)]
        answers = []
        for file in self._json()["files"]:
            known = tree.get(file["path"])
            is_binary = b"\0" in base64.b64decode(file["sample"]) or file["size"] > 1_000_000
            is_lfs = is_binary or file["path"].endswith((".safetensors", ".pt", ".pth", ".png"))
            oid = None if known is None else known.sha256 if known.is_lfs else known.blob_id
            answers.append(
                {"path": file["path"], "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False, "oid": oid}
            )
        self._answer(200, {"files": answers})

    def batch(self, repo: str) -> None:
        self._repository(repo, writes=True)
        objects = []
        for wanted in self._json()["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            target = f"{self.server.url}/lfs/{oid}"
            upload: dict = {"href": target}
            if size > self.server.part_size:
                count = -(-size // self.server.part_size)
                parts = {f"{number:05d}": f"{target}/{number}" for number in range(1, count + 1)}
                upload = {"href": f"{target}/complete", "header": {"chunk_size": str(self.server.part_size), **parts}}
            actions = {} if oid in self.server.stored else {"upload": upload, "verify": {"href": f"{target}/verify"}}
            objects.append({"oid": oid, "size": size, **({"actions": actions} if actions else {})})
        self._answer(200, {"objects": objects, "transfer": "basic"})

    def store(self, oid: str, part: str | None = None) -> None:
        self.server.uploaded_bytes += len(self.body)
        if part is not None:
            self.server.parts[oid, int(part)] = self.body
        elif hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "the content does not match its hash")
        else:
            self.server.stored[oid] = self.body
        self._answer(200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def complete(self, oid: str) -> None:
        numbers = sorted(number for known, number in self.server.parts if known == oid)
        data = b"".join(self.server.parts[oid, number] for number in numbers)
        if hashlib.sha256(data).hexdigest() != oid or len(self._json()["parts"]) != len(numbers):
            raise _Refused(400, "the parts do not match their hash")
        self.server.stored[oid] = data
        self._answer(200, {})

    def verify(self, oid: str) -> None:
        if len(self.server.stored.get(oid, b"")) != self._json()["size"]:
            raise _Refused(404, "this object was not uploaded")
        self._answer(200, {})

    def commit(self, repo: str, revision: str) -> None:
        repository = self._repository(repo, writes=True)
        head = self._revision(repository, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, head):
            raise _Refused(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(repository.trees[head])
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "file":
                tree[path] = File(base64.b64decode(line["value"]["content"]), is_lfs=False)
            elif line["key"] == "lfsFile":
                tree[path] = File(self.server.stored[line["value"]["oid"]], is_lfs=True)
            elif line["key"] == "deletedFile" and path in tree:
                del tree[path]
            elif line["key"] == "deletedFolder":
                tree = {name: file for name, file in tree.items() if not name.startswith(path.rstrip("/") + "/")}
            else:
                raise _Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        if errors := card_errors(tree["README.md"].data.decode()) if "README.md" in tree else []:
            raise _Refused(400, errors[0])
        oid = repository.commit(revision, tree, header["summary"])
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})

    def log_message(self, *args: object) -> None:
        """Quiet."""


def card_errors(content: str) -> list[str]:
    """The errors that the Hub would report in the metadata of a model card."""
    found = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
    data = yaml.safe_load(found[1]) if found else {}
    if not isinstance(data, dict):
        return ["the metadata is not a mapping"]
    errors = []
    for name, known in (("license", _LICENSES), ("pipeline_tag", _TASKS)):
        if name in data and data[name] not in known:
            errors.append(f'"{name}" must be one of the known values, but is {data[name]!r}')
    for name in ("datasets", "base_model"):
        values = data.get(name, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not _REPO_ID.fullmatch(value):
                errors.append(f'"{name}" with value {value!r} is not valid: use an id of the Hub')
    for name in ("tags", "metrics"):
        if not all(isinstance(value, str) for value in data.get(name, [])):
            errors.append(f'"{name}" must be a list of strings')
    for entry in data.get("model-index", []):
        if not entry.get("name"):
            errors.append('"model-index[0].name" is required')
        for result in entry.get("results", [{}]):
            for part, keys in (("task", ["type"]), ("dataset", ["type", "name"])):
                errors += [f'"{part}.{key}" is required' for key in keys if not result.get(part, {}).get(key)]
            if not all("type" in metric and "value" in metric for metric in result.get("metrics", [{}])):
                errors.append('"metrics" need type and value')
    return errors


@contextmanager
def serving() -> Iterator[HubServer]:
    """A Hub that runs in the background."""
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
