"""Google's object store: its JSON API over HTTP, in memory, as far as gcsfs asks for it.

What the emulators on PyPI lack, and what keeps workers apart, is here: objects have generations,
and an upload with `ifGenerationMatch=0` is refused with 412 where the name is taken, also by an
upload in parts at its end. https://cloud.google.com/storage/docs/json_api/v1
"""

import contextlib
import datetime
import http.server
import itertools
import json
import os
import re
import threading
import urllib.parse
import uuid

import fsspec

BUCKET, OBJECTS, OBJECT = (f"/storage/v1/b/([^/]+){end}" for end in ("", "/o/?", "/o/(.+)"))
PAGE = 1000  # names of an answer, as usual


class Refused(Exception):
    """status: of the answer. The text is its message."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Store:
    """Buckets of objects. failures: what the next requests get, each a Refused, for tests."""

    def __init__(self):
        self.lock, self.generations = threading.Lock(), itertools.count(1)
        self.buckets, self.uploads, self.failures = {}, {}, []

    def objects(self, bucket):
        if bucket not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        return self.buckets[bucket]

    def find(self, bucket, name):
        if name not in self.objects(bucket):
            raise Refused(404, f"No such object: {bucket}/{name}")
        return self.buckets[bucket][name]

    def insert(self, bucket, name, data, wanted):
        """Add an object; `data` is None where nothing but the condition is to be checked."""
        there = self.objects(bucket).get(name)
        if wanted is not None and (there[1]["generation"] if there else "0") != wanted:
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
        if data is not None:
            now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            facts = {"bucket": bucket, "name": name, "size": str(len(data)), "updated": now}
            facts |= {"generation": str(next(self.generations)), "timeCreated": now}
            self.buckets[bucket][name] = data, facts
            return facts

    def list(self, bucket, prefix="", delimiter="", pageToken="", maxResults=PAGE, **_):
        items, prefixes, last = [], [], pageToken
        page = {"kind": "storage#objects", "items": items, "prefixes": prefixes}
        for name in sorted(self.objects(bucket)):
            folder, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            place = prefix + folder + cut if cut else name
            if not name.startswith(prefix) or place <= last:
                continue
            if len(items) + len(prefixes) == min(int(maxResults), PAGE):
                return page | {"nextPageToken": last}
            last = place
            prefixes.append(place) if cut else items.append(self.buckets[bucket][name][1])
        return page


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a request to `server.store`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Print nothing."""

    def handle(self):
        with contextlib.suppress(ConnectionError):  # of several questions, one answer may do
            super().handle()

    def do_GET(self):
        url, store = urllib.parse.urlsplit(self.path), self.server.store
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with store.lock:
                if store.failures:
                    raise store.failures.pop(0)
                query = dict(urllib.parse.parse_qsl(url.query))
                content, status, headers = self.route(store, url.path, query, body)
        except Refused as error:
            content = {"error": {"code": error.status, "message": str(error)}}
            status, headers = error.status, {}
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": len(data)}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_DELETE = do_GET

    def route(self, store, path, query, body):
        """Return what is answered, its status, and headers."""

        def match(verb, pattern):
            found = re.fullmatch(pattern, path) if self.command == verb else None
            return found and [*map(urllib.parse.unquote, found.groups())]

        if upload := store.uploads.get(query.get("upload_id")):
            return self.resume(store, query["upload_id"], *upload, body)
        if names := match("POST", f"/upload{OBJECTS}"):
            return self.upload(store, *names, query, body)
        if names := match("GET", f"/download{OBJECT}"):
            return self.part(store.find(*names)[0])
        if names := match("GET", OBJECT):
            return store.find(*names)[1], 200, {}
        if names := match("DELETE", OBJECT):
            store.find(*names)
            del store.buckets[names[0]][names[1]]
            return b"", 204, {}
        if names := match("GET", OBJECTS):
            return store.list(*names, **query), 200, {}
        if names := match("GET", BUCKET):
            store.objects(*names)
            return {"name": names[0]}, 200, {}
        raise Refused(501, f"{self.command} {path} is not known here")

    def upload(self, store, bucket, query, body):
        wanted = query.get("ifGenerationMatch")
        if query["uploadType"] == "multipart":
            _, facts, data = body.split(b"\n\n", 2)
            name = json.loads(facts.partition(b"\n")[0])["name"]
            return store.insert(bucket, name, data.rpartition(b"\n--")[0], wanted), 200, {}
        store.insert(bucket, query["name"], None, wanted)
        number = uuid.uuid4().hex
        store.uploads[number] = bucket, query["name"], wanted, bytearray()
        here = f"http://{self.headers['Host']}{self.path}&upload_id={number}"
        return b"", 200, {"Location": here}

    def resume(self, store, number, bucket, name, wanted, data, body):
        if self.command == "DELETE":
            del store.uploads[number]
            raise Refused(499, "cancelled")
        data += body
        if len(data) < int(self.headers["Content-Range"].rpartition("/")[2]):
            return b"", 308, {"Range": f"bytes=0-{len(data) - 1}"}
        facts = store.insert(bucket, name, bytes(data), wanted)
        del store.uploads[number]
        return facts, 200, {}

    def part(self, data):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return data, 200, {}
        if int(asked[1]) >= len(data):
            raise Refused(416, "Request range not satisfiable")
        return data[int(asked[1]) : int(asked[2] or len(data)) + 1], 206, {}


@contextlib.contextmanager
def serve():
    """Run a store as long as the context lasts; this process and those it starts find it.

    Yields:
        The store, and a function that makes a bucket and returns its address.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.store = True, Store()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["FSSPEC_GS_TOKEN"] = "anon"
    fsspec.config.set_conf_env(fsspec.config.conf)

    def make_bucket():
        name = uuid.uuid4().hex
        server.store.buckets[name] = {}
        return f"gs://{name}"

    try:
        yield server.store, make_bucket
    finally:
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        server.shutdown()
        server.server_close()
