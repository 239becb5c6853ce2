"""The downloader against a server on this machine: whole, broken off, wrong, unsafe, and without a network."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gpt import download
from mlx_gpt.download import Offer, Source, strip, unzip, unzip_enwik8

TEXT = b"To be, or not to be.\n" * 5_000


class Server(ThreadingHTTPServer):
    """Serves `files`; may ignore ranges, or break off after some bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/a.txt": TEXT}
        self.ranges: list[str] = []
        self.ranged, self.most = True, 10**9

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.ranges.append(wanted)
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and self.server.ranged else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : start + self.server.most])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def offer(monkeypatch: pytest.MonkeyPatch, url: str, body: bytes = TEXT, sha256: str | None = None) -> None:
    known = hashlib.sha256(body).hexdigest() if sha256 is None else sha256
    source = Source(url, ("a.txt",), len(body), known)
    monkeypatch.setattr(download, "OFFERS", (Offer("corpus", "a test", "none", (source,)),))


def walk(folder: Path, *args: str) -> Result:
    return CliRunner().invoke(download.main, [*args, "--folder", str(folder)])


def test_a_corpus_arrives_whole_and_is_not_fetched_twice(server: Server, monkeypatch, tmp_path: Path) -> None:
    offer(monkeypatch, server.url("a.txt"))
    assert walk(tmp_path, "corpus").exit_code == 0
    assert (tmp_path / "corpus" / "a.txt").read_bytes() == TEXT
    again = walk(tmp_path, "corpus")
    assert "already there" in again.output and len(server.ranges) == 1
    assert not list(tmp_path.rglob("*.part"))


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, monkeypatch, tmp_path: Path) -> None:
    offer(monkeypatch, server.url("a.txt"))
    server.most = 40_000
    broken = walk(tmp_path, "corpus")
    assert broken.exit_code == 2 and "broke off after 40,000" in broken.output
    assert not (tmp_path / "corpus" / "a.txt").exists()
    server.most = 10**9
    assert walk(tmp_path, "corpus").exit_code == 0
    assert server.ranges == ["", "bytes=40000-"]
    assert (tmp_path / "corpus" / "a.txt").read_bytes() == TEXT


def test_a_server_that_ignores_ranges_starts_again(server: Server, monkeypatch, tmp_path: Path) -> None:
    offer(monkeypatch, server.url("a.txt"))
    server.most, server.ranged = 40_000, False
    walk(tmp_path, "corpus")
    server.most = 10**9
    assert walk(tmp_path, "corpus").exit_code == 0
    assert (tmp_path / "corpus" / "a.txt").read_bytes() == TEXT


def test_a_wrong_hash_keeps_nothing(server: Server, monkeypatch, tmp_path: Path) -> None:
    offer(monkeypatch, server.url("a.txt"), sha256="0" * 64)
    result = walk(tmp_path, "corpus")
    assert result.exit_code == 2 and "SHA-256" in result.output
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_unpublished_hash_is_noted_and_held_to(server: Server, monkeypatch, tmp_path: Path) -> None:
    offer(monkeypatch, server.url("a.txt"), sha256="")
    assert walk(tmp_path, "corpus").exit_code == 0
    assert hashlib.sha256(TEXT).hexdigest() in (tmp_path / "corpus" / "a.txt.sha256").read_text()
    (tmp_path / "corpus" / "a.txt").write_text("tampered")
    assert "changed" in walk(tmp_path, "corpus").output


@pytest.mark.parametrize(
    ("url", "said"), [("http://127.0.0.1:9/a.txt", "cannot be reached"), ("missing.txt", "answers 404")]
)
def test_without_an_answer_one_line_says_so(server: Server, monkeypatch, tmp_path: Path, url: str, said: str) -> None:
    offer(monkeypatch, url if "://" in url else server.url(url))
    result = walk(tmp_path, "corpus")
    assert result.exit_code == 2 and len(result.output.strip().splitlines()) == 1 and said in result.output


def test_mistakes_are_one_line(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder, name, said in (
        (tmp_path, "tinyshakespear", "did you mean tinyshakespeare"),
        (tmp_path / "file", "names", "file"),
    ):
        result = walk(folder, name)
        assert result.exit_code == 2 and said in result.output and len(result.output.strip().splitlines()) == 1


def archive(names: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as whole:
        for name, body in names.items():
            whole.writestr(name, body)
    return packed.getvalue()


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "C:evil.txt", "..\\evil.txt"])
def test_archives_that_lead_out_of_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.zip").write_bytes(archive({name: b"x"}))
    with pytest.raises(download.DataError, match="unsafe"):
        unzip(tmp_path / "x.zip", tmp_path, Source("", (), room=100))
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_archives_are_bounded_and_flattened(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(archive({"wiki/wiki.train.raw": b"words"}))
    with pytest.raises(download.DataError, match="would unpack to 5 bytes"):
        unzip(tmp_path / "x.zip", tmp_path, Source("", (), room=4))
    unzip(tmp_path / "x.zip", tmp_path, Source("", (), room=5))
    assert (tmp_path / "wiki.train.txt").read_bytes() == b"words"


def test_enwik8_is_cut_between_characters_and_whole(tmp_path: Path, monkeypatch) -> None:
    body = "é".encode() * 50  # cuts at 33 and 67 would fall inside a character
    monkeypatch.setattr(download, "ENWIK8_ENDS", (33, 67))
    (tmp_path / "x.zip").write_bytes(archive({"enwik8": body}))
    names = ("train.txt", "valid.txt", "test.txt")
    unzip_enwik8(tmp_path / "x.zip", tmp_path, Source("", names, room=1000))
    parts = [(tmp_path / name).read_bytes() for name in names]
    assert b"".join(parts) == body and [part.decode() for part in parts]


def test_a_book_loses_its_licence_text(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_bytes(
        b"\xef\xbb\xbfThe Project Gutenberg eBook of X\r\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\r\n\r\nCall me.\r\n\r\n"
        b"*** END OF THE PROJECT GUTENBERG EBOOK X ***\r\nlicence"
    )
    strip(page, tmp_path, Source("", ("x.txt",)))
    assert (tmp_path / "x.txt").read_bytes() == b"Call me.\n"


def test_the_list_names_every_corpus() -> None:
    told = CliRunner().invoke(download.main, ["--list"]).output
    for name in ("tinyshakespeare", "tinystories", "wikitext-2", "wikitext-103", "enwik8", "gutenberg"):
        assert name in told
