"""A hub on the loopback address, for the real client: what it asks for, and faults on demand.

It follows what huggingface.co answers: the listing of a revision with sizes and hashes, the tree of
a commit, HEAD and GET of a file with its ETag, commit and size, large files redirected to another
host, ranges, and errors with an X-Error-Code. Files are held in memory.
"""

import contextlib
import dataclasses
import hashlib
import http.server
import json
import threading
import urllib.parse

from huggingface_hub import constants

LARGE = (".safetensors", ".bin", ".npz", ".pth")  # kept in Git LFS: hashed with SHA-256, redirected


def commit_of(number):
    """A commit hash: 40 hexadecimal digits."""
    return hashlib.sha1(b"commit %d" % number).hexdigest()


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclasses.dataclass
class Repository:
    """`branches` has the commit of each branch or tag, `commits` the files of each commit.

    `refusal`, if set, is (status, X-Error-Code) of every answer; `gate` of files alone.
    """

    branches: dict
    commits: dict
    refusal: tuple | None = None
    gate: tuple | None = None

    def commit(self, revision):
        """The commit that a branch, a tag or a commit means; None if there is none."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclasses.dataclass
class Fault:
    """What goes wrong with the next `times` GETs of a file's content.

    `cut` ends the connection after this many bytes, `body` sends other bytes, `status` is an error,
    `hold` sends half of the file and then waits for this event.
    """

    times: int
    cut: int | None = None
    body: bytes | None = None
    status: int | None = None
    hold: threading.Event | None = None


class HubServer:
    """`with HubServer() as hub:` serves `hub.repositories` at `hub.endpoint` until the end."""

    def __init__(self):
        self.repositories = {}
        self.faults = {}  # file name -> Fault
        self.requests = []  # (method, path) in the order of their arrival
        self.ranges = []  # the Range headers of GETs of content
        self.half_sent = threading.Event()  # half of a held file is on its way
        self.info = None  # bytes that are sent in place of every listing
        self.hashes = True  # whether the listing has them
        self.before_answer = lambda path: None  # called with the path of every request
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._running = False

    @property
    def port(self):
        return self._server.server_address[1]

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self._thread.start()
        self._running = True
        return self

    def __exit__(self, *exception):
        self.stop()

    def stop(self):
        """From now on connections are refused."""
        if self._running:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._running = False

    def add(self, name, files, commit=1, branch="main"):
        """Adds a commit with these files to a repository and moves a branch there."""
        repository = self.repositories.setdefault(name, Repository({}, {}))
        repository.commits[commit_of(commit)] = files
        repository.branches[branch] = commit_of(commit)
        return repository

    def fetched(self):
        """The names of the files whose content was asked for, sorted."""
        paths = {path for method, path in self.requests if method == "GET" and "/api/" not in path}
        return sorted(urllib.parse.unquote(path.rsplit("/", 1)[1]) for path in paths)

    def content(self, sha):
        for repository in self.repositories.values():
            for files in repository.commits.values():
                for body in files.values():
                    if hashlib.sha256(body).hexdigest() == sha:
                        return body
        return None

    def fault(self, name):
        fault = self.faults.get(name)
        if fault is None or fault.times == 0:
            return None
        fault.times -= 1
        return fault


def _handler(hub):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            path = urllib.parse.urlsplit(self.path).path
            hub.requests.append((self.command, path))
            hub.before_answer(path)
            parts = [urllib.parse.unquote(part) for part in path.split("/")[1:]]
            if parts[:2] == ["api", "models"]:
                self.api("/".join(parts[2:4]), *parts[4:6])
            elif parts[2:3] == ["resolve"]:
                self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            elif parts[0] == "storage":
                self.send_content(hub.content(parts[1]), parts[-1])
            else:
                self.error(404, "NotFound")

        def api(self, name, kind, revision):
            repository, commit = self.locate(name, revision)
            if commit is None:
                return
            files = repository.commits[commit]
            if kind == "revision":
                siblings = [sibling(path, body, hub.hashes) for path, body in files.items()]
                self.json(hub.info or {"id": name, "sha": commit, "siblings": siblings})
            else:
                self.json([tree_entry(path, body) for path, body in files.items()])

        def locate(self, name, revision):
            """The repository and its commit, or an error and (None, None)."""
            repository = hub.repositories.get(name)
            if repository is None:  # so the hub answers who shows no token: it may be private
                self.error(401, "RepoNotFound")
            elif repository.refusal:
                self.error(*repository.refusal)
            elif repository.commit(revision) is None:
                self.error(404, "RevisionNotFound")
            else:
                return repository, repository.commit(revision)
            return None, None

        def resolve(self, name, revision, file):
            repository, commit = self.locate(name, revision)
            if commit is None:
                return
            if repository.gate:
                self.error(*repository.gate)
            elif file not in repository.commits[commit]:
                self.error(404, "EntryNotFound", {"X-Repo-Commit": commit})
            elif file.endswith(LARGE):
                self.redirect(repository.commits[commit][file], commit, file)
            else:
                body = repository.commits[commit][file]
                headers = {"ETag": f'"{git_hash(body)}"', "X-Repo-Commit": commit}
                self.send_content(body, file.rsplit("/", 1)[-1], headers)

        def redirect(self, body, commit, file):
            """To "localhost": another host than 127.0.0.1 for the client, as a storage host is."""
            sha = hashlib.sha256(body).hexdigest()
            self.send_response(302)
            base = urllib.parse.quote(file.rsplit("/", 1)[-1])
            self.send_header("Location", f"http://localhost:{hub.port}/storage/{sha}/{base}")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("X-Linked-ETag", f'"{sha}"')
            self.send_header("X-Linked-Size", str(len(body)))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_content(self, body, name, headers=None):
            fault = hub.fault(name) if self.command == "GET" else None
            if fault and fault.status:
                return self.error(fault.status, "Broken")
            if fault and fault.body is not None:
                body = fault.body
            start = self.range_start()
            self.send_response(206 if start else 200)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            if self.command == "GET":
                self.send_body(body[start:], fault)
            return None

        def range_start(self):
            asked = self.headers.get("Range")
            if self.command != "GET" or asked is None:
                return 0
            hub.ranges.append(asked)
            return int(asked.removeprefix("bytes=").partition("-")[0])

        def send_body(self, body, fault):
            if fault and fault.hold:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                hub.half_sent.set()
                fault.hold.wait(60)
            else:
                self.wfile.write(body[: fault.cut] if fault else body)

        def json(self, value):
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def error(self, status, code, headers=None):
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"{code} says the server")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    return Handler


def sibling(path, body, hashes):
    if not hashes:
        return {"rfilename": path}
    entry = {"rfilename": path, "size": len(body), "blobId": git_hash(body)}
    if path.endswith(LARGE):
        sha = hashlib.sha256(body).hexdigest()
        entry["lfs"] = {"sha256": sha, "size": len(body), "pointerSize": 130}
    return entry


def tree_entry(path, body):
    entry = {"type": "file", "path": path, "size": len(body), "oid": git_hash(body)}
    if path.endswith(LARGE):
        sha = hashlib.sha256(body).hexdigest()
        entry["lfs"] = {"oid": sha, "size": len(body), "pointerSize": 130}
    return entry


@contextlib.contextmanager
def client_turned_to_one(monkeypatch):
    """Starts a server and makes the client know no other hub, by no proxy."""
    with HubServer() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + template)
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for switch in ("DISABLE_XET", "DISABLE_TELEMETRY", "DISABLE_IMPLICIT_TOKEN"):
            monkeypatch.setattr(constants, f"HF_HUB_{switch}", True)
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(variable, raising=False)
            monkeypatch.delenv(variable.lower(), raising=False)
        yield server
