"""Servers on loopback that speak as much of two protocols as their clients ask for: the Hub of Hugging Face, and GCS.

Both keep files in memory and count the bytes of files that they send. What a client asks beyond that is answered by 501, which
a test sees as a failure: nothing is made up.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Handler(http.server.BaseHTTPRequestHandler):
    """What both servers need: a body, an answer, a range of a file."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        try:
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw)
        except ConnectionError:
            self.close_connection = True  # the client wants no answer any more

    def part(self, whole: bytes, **headers: str) -> None:
        """A file, or the range of it that is asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found:
            self.server.sent += len(whole)
            self.answer(200, whole, **headers)
            return
        first, last = int(found[1]), min(int(found[2] or len(whole) - 1), len(whole) - 1)
        if first > last:
            self.answer(416)
            return
        self.server.sent += last + 1 - first
        self.answer(206, whole[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(whole)}", **headers)

    def unknown(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self.answer(501)


class HubHandler(Handler):
    """One repository, `org/name`, with one revision, `main`; small files are sent in commits, others as LFS objects."""

    REPO = "org/name"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api = f"/api/models/{self.REPO}"
        if path.startswith("/api/models/") and not path.startswith(api):
            self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
        elif path in (api, f"{api}/revision/main"):
            self.answer(200, {"id": self.REPO, "modelId": self.REPO, "sha": "0" * 40, "siblings": [], "private": False})
        elif path.startswith(f"{api}/revision/"):
            self.answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
        elif path == f"{api}/tree/main" or path.startswith(f"{api}/tree/main/"):
            self.tree(path.removeprefix(f"{api}/tree/main").strip("/"))
        elif path.startswith(f"/{self.REPO}/resolve/main/"):
            raw = self.server.files.get(path.removeprefix(f"/{self.REPO}/resolve/main/"))
            if raw is None:
                self.answer(404, b"", X_Error_Code="EntryNotFound")
            else:
                self.part(raw, ETag=f'"{hashlib.sha1(raw).hexdigest()}"', X_Repo_Commit="0" * 40)
        else:
            self.unknown()

    do_HEAD = do_GET

    def row(self, name: str) -> dict[str, Any]:
        raw = self.server.files[name]
        return {"type": "file", "path": name, "size": len(raw), "oid": hashlib.sha1(raw).hexdigest()}

    def tree(self, folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = [name.removeprefix(prefix) for name in self.server.files if name.startswith(prefix)]
        if folder and not inside:
            self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound")
            return
        folders = sorted({name.partition("/")[0] for name in inside if "/" in name})
        rows = [{"type": "directory", "path": f"{prefix}{name}", "oid": "0" * 40, "size": 0} for name in folders]
        self.answer(200, rows + [self.row(f"{prefix}{name}") for name in sorted(inside) if "/" not in name])

    def do_POST(self) -> None:
        path, raw = unquote(urlsplit(self.path).path), self.body()
        api, files = f"/api/models/{self.REPO}", self.server.files
        if path == f"{api}/paths-info/main":
            asked = parse_qs(raw.decode()).get("paths", [])
            rows = [self.row(name) for name in asked if name in files]
            folders = [name for name in asked if any(one.startswith(f"{name}/") for one in files)]
            self.answer(
                200, rows + [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders]
            )
        elif path == f"{api}/preupload/main":
            rows = json.loads(raw)["files"]
            modes = [(row["path"], "lfs" if row["size"] > 10_000 else "regular") for row in rows]
            self.answer(200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]})
        elif path == f"/{self.REPO}.git/info/lfs/objects/batch":
            host = self.headers["Host"]
            made = [
                {**one, "actions": {"upload": {"href": f"http://{host}/lfs/{one['oid']}"}}}
                for one in json.loads(raw)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": made})
        elif path == f"{api}/commit/main":
            for line in raw.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                elif row["key"] == "lfsFile":
                    files[row["value"]["path"]] = self.server.objects[row["value"]["oid"]]
                elif row["key"] == "deletedFile":
                    del files[row["value"]["path"]]
            url = f"http://{self.headers['Host']}/{self.REPO}/commit/{'0' * 40}"
            self.answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": url})
        else:
            self.unknown()

    def do_PUT(self) -> None:
        raw = self.body()
        name = self.path.removeprefix("/lfs/")
        if hashlib.sha256(raw).hexdigest() != name:
            self.answer(400)
            return
        self.server.objects[name] = raw
        self.answer(200)


class GcsHandler(Handler):
    """One bucket, `models`; uploads in one piece and resumable ones in several."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked, path = parse_qs(url.query), url.path
        files = self.server.files
        if found := re.fullmatch(r"(?:/download)?/storage/v1/b/models/o/([^/]+)", path):
            name = unquote(found[1])
            if name not in files:
                self.answer(404, {"error": {"message": "No such object"}})
            elif asked.get("alt") == ["media"]:
                self.part(files[name])
            else:
                self.answer(200, self.row(name))
        elif path == "/storage/v1/b/models/o":
            prefix, cut = asked.get("prefix", [""])[0], asked.get("delimiter", [""])[0]
            inside = [name for name in sorted(files) if name.startswith(prefix)]
            folders = {
                prefix + name[len(prefix) :].partition(cut)[0] + cut
                for name in inside
                if cut and cut in name[len(prefix) :]
            }
            items = [self.row(name) for name in inside if not cut or cut not in name[len(prefix) :]]
            self.answer(200, {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)})
        elif path == "/storage/v1/b/models":
            self.answer(200, {"name": "models", "kind": "storage#bucket", "location": "here"})
        elif path.startswith("/storage/v1/b/"):
            self.answer(404, {"error": {"message": "The specified bucket does not exist."}})
        else:
            self.unknown()

    def row(self, name: str) -> dict[str, Any]:
        raw, generation = self.server.files[name], self.server.generations[name]
        md5 = base64.b64encode(hashlib.md5(raw).digest()).decode()
        return {
            "kind": "storage#object", "name": name, "bucket": "models", "size": str(len(raw)), "md5Hash": md5,
            "generation": str(generation), "etag": f"{generation}", "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z", "storageClass": "STANDARD",
        }  # fmt: skip

    def keep(self, name: str, raw: bytes) -> None:
        self.server.generations[name] = self.server.generations.get(name, 0) + 1
        self.server.files[name] = raw
        self.answer(200, self.row(name))

    def do_POST(self) -> None:
        url, raw = urlsplit(self.path), self.body()
        asked = parse_qs(url.query)
        if url.path == "/upload/storage/v1/b/models/o" and asked.get("uploadType") == ["multipart"]:
            edge = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            first, second = raw.split(b"--" + edge)[1:3]
            name = json.loads(first.partition(b"\n\n")[2])["name"]
            self.keep(name, second.partition(b"\n\n")[2].removesuffix(b"\n"))
        elif url.path == "/upload/storage/v1/b/models/o" and asked.get("uploadType") == ["resumable"]:
            token = f"{len(self.server.objects)}"
            self.server.objects[token] = (asked["name"][0], bytearray())
            self.answer(200, b"", Location=f"http://{self.headers['Host']}/session/{token}")
        elif url.path.startswith("/session/"):
            name, so_far = self.server.objects[url.path.removeprefix("/session/")]
            first, last, total = map(
                int, re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", self.headers["Content-Range"]).groups()
            )
            if first != len(so_far) or last + 1 - first != len(raw):
                self.answer(400)
                return
            so_far += raw
            self.server.parts += 1
            if len(so_far) == total:
                self.keep(name, bytes(so_far))
            else:
                self.answer(308, b"", Range=f"bytes=0-{len(so_far) - 1}")
        elif url.path.startswith("/upload/storage/v1/b/"):
            self.answer(404, {"error": {"message": "The specified bucket does not exist."}})
        else:
            self.unknown()

    do_PUT = do_POST

    def do_DELETE(self) -> None:
        found = re.fullmatch(r"/storage/v1/b/models/o/([^/?]+)", urlsplit(self.path).path)
        if found and self.server.files.pop(unquote(found[1]), None) is not None:
            self.answer(204)
        else:
            self.answer(404, {"error": {"message": "No such object"}})


@contextmanager
def serving(handler: type[Handler]) -> Iterator[Any]:
    """A server with attributes `url`, `files`, `sent` (bytes of files), `parts` and `unknown` (what it could not answer)."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.files, server.objects, server.generations, server.unknown = {}, {}, {}, []
    server.sent = server.parts = 0
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert server.unknown == []
