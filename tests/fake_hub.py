"""A hub on this machine: repositories in memory, listed, served in ranges, and committed to."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading

COMMIT = "c" * 40
LARGE = (".safetensors", ".bin", ".pt", ".pth")  # have a SHA-256, as files of Git LFS


class Hub(http.server.ThreadingHTTPServer):
    """repositories: id -> {name: bytes}. asked: (method, path) of all requests.

    cut: names of files whose connection ends in the middle, once. lying: files that are served
    other than their digest says.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.cut: set[str] = set()
        self.lying: set[str] = set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def _answer(self, value, status=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(/revision/main)?", path):
            return self._list(match[1])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._serve(*match.groups())
        return self._answer({"error": "no such thing"}, 404)

    do_HEAD = do_GET

    def _list(self, source):
        files = self.server.repositories.get(source)
        if files is None:
            return self._answer({"error": "none"}, 404, X_Error_Code="RepoNotFound")
        entries = []
        for name, data in files.items():
            entry = {"rfilename": name, "size": len(data), "blobId": "b" * 40}
            if name.endswith(LARGE):
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        about = {"id": source, "modelId": source, "sha": COMMIT, "siblings": entries}
        return self._answer(about | {"private": False, "tags": []})

    def _serve(self, source, name):
        data = self.server.repositories.get(source, {}).get(name)
        if data is None:
            return self._answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        large = name.endswith(LARGE)
        etag = (hashlib.sha256 if large else hashlib.sha1)(data).hexdigest()
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        if name in self.server.lying:
            data = bytes(len(data))
        if self.command == "GET" and name in self.server.cut:
            self.server.cut.remove(name)
            self.send_response(200)
            for key, text in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(key.replace("_", "-"), text)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        status = 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or len(data) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        return self._answer(data, status, **headers)

    def do_POST(self):
        self.server.asked.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(name, {})
            return self._answer({"url": f"{self.server.url}/{name}", "name": name, "id": "1"})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self._answer({"files": [{"path": name} | modes for name in names]})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[match[1]][line["value"]["path"]] = content
            url = f"{self.server.url}/{match[1]}/commit/{COMMIT}"
            return self._answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        return self._answer({"error": "no such thing"}, 404)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve():
    """Serve an empty hub."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
