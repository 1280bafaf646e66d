from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrec.data.fetch import Archive, cached, download, install, unpack
from fedrec.data.movielens import MovieLens, MovieLensConfig
from fedrec.data.sources.ml_100k import MovieLens100K
from fedrec.errors import DataError

RATINGS = b"userId,movieId,rating,timestamp\n1,1,4.0,7\n"
MOVIES = b"movieId,title,genres\n1,Toy Story (1995),Comedy\n"


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


WHOLE = zipped({"tiny/ratings.csv": RATINGS, "tiny/movies.csv": MOVIES})


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it overrides
        pass

    def do_GET(self) -> None:
        if self.path == "/cut.zip":  # promises everything and sends half
            self.send_response(200)
            self.send_header("Content-Length", str(len(WHOLE)))
            self.end_headers()
            self.wfile.write(WHOLE[: len(WHOLE) // 2])
        else:
            super().do_GET()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "tiny.zip").write_bytes(WHOLE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def source(url: str, sha256: str | None = None) -> type[MovieLens]:
    class Tiny(MovieLens):
        name = "tiny"
        about = "A tiny set."
        Config = MovieLensConfig
        archive = Archive(url, sha256, ("tiny/ratings.csv", "tiny/movies.csv"))

    return Tiny


def nothing_half_done(home: Path) -> bool:
    return not cached("tiny").exists() and list((home / "data").iterdir()) == []


def test_a_download_is_checked_unpacked_and_cached(server: str) -> None:
    tiny = source(f"{server}/tiny.zip", hashlib.sha256(WHOLE).hexdigest())
    data = tiny.load(MovieLensConfig(name="tiny"))
    assert data.catalogue.title(0) == "Toy Story (1995)"
    assert sorted(file.name for file in cached("tiny").iterdir()) == ["movies.csv", "ratings.csv"]
    gone = source("http://127.0.0.1:9/gone.zip")
    assert gone.fetch() == cached("tiny")  # no second download


@pytest.mark.parametrize(
    ("file", "sha256", "message"),
    [
        ("cut.zip", None, r"was cut off after \d+ of \d+ bytes; try again"),
        ("tiny.zip", "0" * 64, r"is not what was expected: its SHA-256 is [0-9a-f]{16}…, the pinned one 0{16}…"),
        ("none.zip", None, r"none.zip cannot be reached \(File not found\)"),
    ],
)
def test_a_failed_download_leaves_nothing(home: Path, server: str, file: str, sha256: str | None, message: str) -> None:
    with pytest.raises(DataError, match=rf"Cannot fetch tiny: .*{message}.* at hand, set data.path"):
        source(f"{server}/{file}", sha256).fetch()
    assert nothing_half_done(home)


def test_no_network_is_said(home: Path) -> None:
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/x.zip cannot be reached \(.*refused\)"):
        source("http://127.0.0.1:9/x.zip").fetch()
    assert nothing_half_done(home)


def test_a_zip_without_the_file_or_damaged_is_refused(tmp_path: Path, server: str) -> None:
    with pytest.raises(DataError, match=r"download.zip holds no tiny/other.csv"):
        unpack(Archive(f"{server}/tiny.zip", None, ("tiny/other.csv",)), tmp_path)
    (tmp_path / "served" / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"download.zip is a damaged zip file"):
        unpack(Archive(f"{server}/bad.zip", None, ("tiny/other.csv",)), tmp_path)


def test_a_silent_server_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("fedrec.data.fetch.TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(DataError, match=r"cannot be reached \(timed out\)"):
            download(f"http://127.0.0.1:{port}/x.zip", tmp_path / "x.zip", None)


def test_a_full_disk_leaves_the_cache_as_it_was(home: Path) -> None:
    install("tiny", lambda folder: write(folder / "a", b"old"))
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from fedrec.data.fetch import install\n"
        "install('tiny', lambda folder: [None, (folder / 'a').write_bytes(bytes(2000))][0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "DataError: Cannot write in " in done.stderr
    assert "File too large; free some space there" in done.stderr
    assert (cached("tiny") / "a").read_bytes() == b"old"
    assert [entry.name for entry in (home / "data").iterdir()] == ["tiny"]


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FEDREC_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"Cannot write in .*/file/data: .*set FEDREC_HOME to a folder"):
        install("tiny", lambda folder: write(folder / "a", b"x"))


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def offline(find_links: str = "") -> dict[str, str]:
    """An environment without a network and without a package index, apart from a folder of wheels."""
    dead = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), dead)
    without = {
        name: value for name, value in os.environ.items() if not name.startswith("PIP_") and name.lower() != "no_proxy"
    }
    return {**without, **proxies, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": find_links, "PIP_CONFIG_FILE": os.devnull}


def fetch_ml_100k(environment: dict[str, str], *python: str) -> str:
    code = "from fedrec.data.source import fetch; print(fetch('ml-100k'))"
    command = [sys.executable, *python, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr.splitlines()[-1] if done.stderr else done.stdout


def test_ml_100k_without_network_cache_and_index_says_what_to_do(home: Path) -> None:
    message = fetch_ml_100k(offline())
    assert "DataError: Cannot fetch ml-100k. GroupLens: https://files.grouplens.org" in message
    assert "Wheel: pip could not download recbole==1.2.1" in message
    assert "put u.data and u.item into a folder and set data.path" in message
    assert list((home / "data").iterdir()) == []


def test_ml_100k_out_of_a_wheel_with_other_content_is_refused(tmp_path: Path, home: Path) -> None:
    member = "recbole/dataset_example/ml-100k/ml-100k"
    info = "recbole-1.2.1.dist-info"
    files = {
        f"{member}.inter": b"user_id:token\n1\n",
        f"{member}.item": b"item_id:token\n1\n",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {name: base64.urlsafe_b64encode(hashlib.sha256(content).digest()) for name, content in files.items()}
    lines = [f"{name},sha256={digest.decode()},\n" for name, digest in digests.items()]
    files[f"{info}/RECORD"] = "".join(lines).encode()
    (tmp_path / "recbole-1.2.1-py3-none-any.whl").write_bytes(zipped(files))
    message = fetch_ml_100k(offline(str(tmp_path)))
    assert "Wheel: ml-100k.item is not what was expected: its SHA-256 is" in message
    assert list((home / "data").iterdir()) == []


def test_ml_100k_with_a_damaged_cache_is_fetched_anew(home: Path) -> None:
    folder = home / "data" / "ml-100k"
    folder.mkdir(parents=True)
    (folder / "u.data").write_bytes(b"1\t1\t5\t1\n")
    (folder / "u.item").write_bytes(b"")
    assert "Cannot fetch ml-100k" in fetch_ml_100k(offline())  # the damaged copy is not taken for whole
    assert (folder / "u.data").read_bytes() == b"1\t1\t5\t1\n"  # nor thrown away before there is a better one


@pytest.mark.slow
def test_ml_100k_really_arrives() -> None:
    data = MovieLens100K.load(MovieLens100K.Config(name="ml-100k"))
    assert (data.n_users, data.n_items, data.n_events, data.duplicates) == (943, 1682, 100_000, 0)
    assert data.catalogue.title(11) == "The Usual Suspects (1995)"
    assert len(data.catalogue.genre_names) == 18
    assert data.filters == ()
