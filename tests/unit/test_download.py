"""Downloads: resumed, verified, never half-written, and nothing lands outside of the folder."""

import hashlib
import http.server
import io
import threading
import zipfile
from typing import ClassVar

import pytest

from retrotune.errors import ConfigError, DataError
from retrotune.preparing.download import SOURCES, RawFile, download_files, download_source
from retrotune.study.stages import DownloadSourceParams

CONTENT = bytes(range(256)) * 40


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`; cuts the first transfer of a file named in `cut` after 1,000 bytes."""

    files: ClassVar[dict] = {}
    cut: ClassVar[set] = set()
    ranges: ClassVar[list] = []

    def do_GET(self):
        data = self.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = 0
        asked = self.headers.get("Range")
        if asked:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.ranges.append(start)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", '"v1"')
        self.end_headers()
        stop = len(data)
        if self.path in self.cut:
            self.cut.discard(self.path)
            stop = start + 1000
        self.wfile.write(data[start:stop])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    Handler.files, Handler.cut, Handler.ranges = {}, set(), []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


def test_whole_and_verified(server, tmp_path):
    Handler.files["/a.bin"] = CONTENT
    file = RawFile(f"{server}/a.bin", "sub/a.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert download_files((file,), tmp_path) == [tmp_path / "sub" / "a.bin"]
    assert (tmp_path / "sub" / "a.bin").read_bytes() == CONTENT
    Handler.files.clear()
    download_files((file,), tmp_path)  # what is complete is not fetched again


def test_an_interrupted_transfer_goes_on(server, tmp_path):
    Handler.files["/a.bin"] = CONTENT
    Handler.cut.add("/a.bin")
    download_files((RawFile(f"{server}/a.bin", "a.bin"),), tmp_path, wait=0.01)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert Handler.ranges == [1000]
    assert not list(tmp_path.glob("*.part"))


def test_a_wrong_checksum_is_no_file(server, tmp_path):
    Handler.files["/a.bin"] = CONTENT
    with pytest.raises(DataError, match="sha256"):
        download_files((RawFile(f"{server}/a.bin", "a.bin", sha256="0" * 64),), tmp_path, attempts=1)
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("address", ["/none.bin", "http://127.0.0.1:9"])
def test_offline_names_address_and_place(server, tmp_path, address):
    url = address if address.startswith("http") else server + address
    with pytest.raises(DataError) as error:
        download_files((RawFile(url, "a.bin"),), tmp_path, attempts=2, wait=0.01)
    assert url in str(error.value)
    assert f"put it at {tmp_path / 'a.bin'}" in str(error.value)


def archive(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, text in members.items():
            made.writestr(name, text)
    return stream.getvalue()


def test_archives_are_unpacked(server, tmp_path):
    Handler.files["/a.zip"] = archive({"deep/x.json": "{}", "deep/other.txt": "no", "__MACOSX/x.json": "no"})
    paths = download_files((RawFile(f"{server}/a.zip", "a.zip", members=("*.json",)),), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["x.json"]
    assert not (tmp_path / "a.zip").exists()
    assert not (tmp_path / "other.txt").exists()


@pytest.mark.parametrize("name", ["../evil.json", "/evil.json", "a/../../evil.json", "..\\evil.json"])
def test_a_member_outside_of_the_folder_is_refused(server, tmp_path, name):
    Handler.files["/a.zip"] = archive({"fine.json": "{}", name: "{}"})
    folder = tmp_path / "folder"
    with pytest.raises(DataError, match="outside"):
        download_files((RawFile(f"{server}/a.zip", "a.zip", members=("*.json",)),), folder)
    assert not list(tmp_path.rglob("*.json")) or [p.name for p in tmp_path.rglob("*.json")] == ["download.json"]


def test_sources():
    for reader in ("nq", "triviaqa", "narrativeqa", "qasper", "quality", "qmsum", "wikipedia"):
        assert all(file.url.startswith("https://") for file in SOURCES[reader])
    with pytest.raises(ConfigError, match="known are"):
        download_source(DownloadSourceParams(source="nothing", folder="x"), ".")
