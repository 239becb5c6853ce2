"""The corpus downloader against a server on this machine: whole, resumed, refused and explained in one line."""

import ast
import dataclasses
import hashlib
import io
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gpt import download
from mlx_gpt.corpus import documents, files
from mlx_gpt.corpus.splits import groups
from mlx_gpt.download import Offer, Source

TEXT = ("To be, or not to be: naïve question.\n" * 6_000).encode()  # 228,000 bytes: several blocks
SHA = hashlib.sha256(TEXT).hexdigest()
BOOK = (
    "\ufeffThe Project Gutenberg eBook of Tea\r\n\r\nTitle: Tea\r\n\r\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK TEA ***\r\n\r\n\r\n"
    "TEA\r\n\r\nBy “Nobody”\r\n\r\n* * *\r\n\r\nThe end.\r\n\r\n\r\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK TEA ***\r\n\r\nSection 1. General Terms\r\n"
)


class Server(ThreadingHTTPServer):
    """Serves `pages`; remembers each request's path and Range; breaks off after `stop_after` bytes of a body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.ranges = True
        self.stop_after: int | None = None
        self.hangs = False  # a body that breaks off leaves its connection open until `released`
        self.released = threading.Event()

    def url(self, page: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{page}"


class Handler(BaseHTTPRequestHandler):
    """One answer, whole or in part."""

    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        body = self.server.pages.get(self.path[1:])
        if body is None:
            return self.send_error(404)
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        self.wfile.write(body[first:][: self.server.stop_after])
        if self.server.hangs:
            self.server.released.wait(5)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join(5)


@pytest.fixture
def offer(server: Server, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The only corpus on offer: `play`, a plain text whose size and hash are published."""
    server.pages["play.txt"] = TEXT
    source = Source(server.url("play.txt"), ("play.txt",), len(TEXT), SHA)
    give(monkeypatch, source)
    return source


def give(monkeypatch: pytest.MonkeyPatch, *sources: Source) -> None:
    monkeypatch.setattr(download, "OFFERS", (Offer("play", "a play", "none", sources),))


def walk(folder: Path, *names: str) -> Result:
    return CliRunner().invoke(download.main, [*(names or ("play",)), "--folder", str(folder)], prog_name="download")


def refused(folder: Path, *names: str) -> str:
    """The one line, and nothing else, that a failed download says with exit code 2."""
    result = walk(folder, *names)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def zipped(*members: tuple[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, body in members:
            whole.writestr(name, body)
    return archive.getvalue()


def test_a_download_is_put_in_place_with_its_hash_beside_it(offer: Source, server: Server, tmp_path: Path) -> None:
    result = walk(tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "play" / "play.txt").read_bytes() == TEXT
    assert (tmp_path / "play" / "play.txt.sha256").read_text() == f"{SHA}  play.txt\n"  # as sha256sum writes it
    assert names_in(tmp_path / "play") == {"play.txt", "play.txt.sha256"}
    assert server.asked == [("/play.txt", None)]
    assert result.stderr == ""  # no progress where no terminal looks on
    assert sum(SHA in line for line in result.stdout.splitlines()) == 1
    assert [path.name for path in files([tmp_path / "play"])] == ["play.txt"]  # train --data sees the text only


def test_a_part_is_resumed_where_it_stopped(offer: Source, server: Server, tmp_path: Path) -> None:
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "play.txt.part").write_bytes(TEXT[:100_000])
    assert walk(tmp_path).exit_code == 0
    assert server.asked == [("/play.txt", "bytes=100000-")]
    assert (tmp_path / "play" / "play.txt").read_bytes() == TEXT


def test_a_server_that_ignores_ranges_means_starting_again(offer: Source, server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "play.txt.part").write_bytes(TEXT[:100_000])
    assert walk(tmp_path).exit_code == 0
    assert server.asked == [("/play.txt", "bytes=100000-")]
    assert (tmp_path / "play" / "play.txt").read_bytes() == TEXT


def test_a_finished_part_is_not_asked_for_again(offer: Source, server: Server, tmp_path: Path) -> None:
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "play.txt.part").write_bytes(TEXT)
    assert walk(tmp_path).exit_code == 0
    assert server.asked == []
    assert (tmp_path / "play" / "play.txt").read_bytes() == TEXT


def test_a_part_longer_than_the_file_is_started_again(offer: Source, server: Server, tmp_path: Path) -> None:
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "play.txt.part").write_bytes(TEXT + b"more")
    assert walk(tmp_path).exit_code == 0
    assert server.asked == [("/play.txt", None)]
    assert (tmp_path / "play" / "play.txt").read_bytes() == TEXT


def test_a_broken_transfer_keeps_its_part_and_goes_on(offer: Source, server: Server, tmp_path: Path) -> None:
    server.stop_after = 150_000
    line = refused(tmp_path)
    assert "broke off after 150,000 of 228,000 bytes" in line
    assert names_in(tmp_path / "play") == {"play.txt.part"}
    server.stop_after = None
    assert walk(tmp_path).exit_code == 0
    assert server.asked[-1] == ("/play.txt", "bytes=150000-")
    assert (tmp_path / "play" / "play.txt").read_bytes() == TEXT


def test_a_server_that_falls_silent_is_left(
    offer: Source, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE", 0.1)
    server.stop_after, server.hangs = 150_000, True
    assert "broke off after" in refused(tmp_path)
    assert TEXT.startswith((tmp_path / "play" / "play.txt.part").read_bytes())


def test_a_wrong_hash_keeps_nothing(offer: Source, server: Server, tmp_path: Path) -> None:
    server.pages["play.txt"] = TEXT[:-1] + b"!"
    line = refused(tmp_path)
    assert SHA in line and hashlib.sha256(server.pages["play.txt"]).hexdigest() in line
    assert names_in(tmp_path / "play") == set()


def test_a_page_of_another_length_does_not_cost_the_part(offer: Source, server: Server, tmp_path: Path) -> None:
    server.pages["play.txt"] = b"<html>Please log in to this network</html>"
    server.ranges = False
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "play.txt.part").write_bytes(TEXT[:100_000])
    assert "offers 42 bytes where 228,000 are expected" in refused(tmp_path)
    assert (tmp_path / "play" / "play.txt.part").read_bytes() == TEXT[:100_000]


def test_what_is_complete_is_skipped_without_a_request(offer: Source, server: Server, tmp_path: Path) -> None:
    walk(tmp_path)
    server.asked.clear()
    result = walk(tmp_path)
    assert result.exit_code == 0
    assert "already there" in result.stdout
    assert server.asked == []


def test_a_changed_file_is_neither_trusted_nor_overwritten(offer: Source, server: Server, tmp_path: Path) -> None:
    walk(tmp_path)
    (tmp_path / "play" / "play.txt").write_bytes(b"my own play\n")
    assert "changed" in refused(tmp_path)
    assert (tmp_path / "play" / "play.txt").read_bytes() == b"my own play\n"


def test_a_file_of_the_users_own_is_not_overwritten(
    offer: Source, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, Source(server.url("play.txt"), ("play.txt",)))
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "play.txt").write_bytes(b"my own play\n")
    assert "not put there by this command" in refused(tmp_path)
    assert server.asked == []


def test_without_a_published_hash_the_first_download_sets_it(
    offer: Source, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, Source(server.url("play.txt"), ("play.txt",)))
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "play.txt.part").write_bytes(b"of another version")
    assert SHA in walk(tmp_path).stdout
    assert "already there" in walk(tmp_path).stdout
    assert server.asked == [("/play.txt", None)]  # nothing could tell the halves of two versions apart
    (tmp_path / "play" / "play.txt").unlink()
    server.pages["play.txt"] = TEXT + b"Exit.\n"
    assert "play.txt.sha256" in refused(tmp_path)
    assert names_in(tmp_path / "play") == {"play.txt.sha256"}
    (tmp_path / "play" / "play.txt.sha256").unlink()
    assert walk(tmp_path).exit_code == 0
    assert (tmp_path / "play" / "play.txt").read_bytes() == TEXT + b"Exit.\n"


def test_a_file_without_a_published_size_is_bounded(
    offer: Source, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, Source(server.url("play.txt"), ("play.txt",)))
    monkeypatch.setattr(download, "LARGEST", 100_000)
    assert "more than 100,000 bytes" in refused(tmp_path)
    assert not (tmp_path / "play" / "play.txt").exists()


def test_without_a_network_there_is_one_line_and_a_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:  # bound but not listening: a connection is refused
        free.bind(("127.0.0.1", 0))
        give(monkeypatch, Source(f"http://127.0.0.1:{free.getsockname()[1]}/play.txt", ("play.txt",), 1, SHA))
        assert refused(tmp_path) == (
            "Error: play: cannot be reached (no network?); "
            "train on the built-in stories or on your own text with --data\n"
        )


def test_a_page_that_is_gone_says_so(offer: Source, server: Server, tmp_path: Path) -> None:
    server.pages.clear()
    assert "answers 404" in refused(tmp_path)


def test_an_unknown_name_is_told_the_nearest_before_anything_is_fetched(server: Server, tmp_path: Path) -> None:
    assert "did you mean tinyshakespeare?" in refused(tmp_path, "enwik8", "TinyShakespear")
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("taken", ["data", "data/play"])
def test_a_file_where_the_folder_should_be_is_one_line(offer: Source, tmp_path: Path, taken: str) -> None:
    path = tmp_path / taken
    path.parent.mkdir(exist_ok=True)
    path.write_text("I am a file")
    assert "--folder" in refused(tmp_path / "data")


def test_an_unwritable_folder_is_one_line(offer: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", forbidden)  # root may write everywhere, so that chmod would not do
    assert f"{tmp_path / 'play'}: Permission denied" in refused(tmp_path)


def test_too_little_room_is_said_before_the_download(
    offer: Source, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, dataclasses.replace(offer, size=10**18))
    assert "are needed" in refused(tmp_path)
    assert server.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_is_one_line(offer: Source, tmp_path: Path) -> None:
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "play.txt.part").symlink_to("/dev/full")
    assert "No space left on device" in refused(tmp_path)


def test_a_wikitext_archive_becomes_three_texts_whose_split_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = ("train", "valid", "test")
    server.pages["wiki.zip"] = page = zipped(
        ("wikitext-2-raw/", b""),
        *((f"wikitext-2-raw/wiki.{split}.raw", f" = {split} = \n".encode()) for split in splits),
    )
    (published,) = next(each for each in download.OFFERS if each.name == "wikitext-2").sources
    sha256 = hashlib.sha256(page).hexdigest()
    give(monkeypatch, dataclasses.replace(published, url=server.url("wiki.zip"), size=len(page), sha256=sha256))
    assert walk(tmp_path).exit_code == 0
    texts = {f"wiki.{split}.txt" for split in splits}
    assert names_in(tmp_path / "play") == texts | {f"{text}.sha256" for text in texts}
    assert (tmp_path / "play" / "wiki.valid.txt").read_text() == " = valid = \n"
    assert groups(files([tmp_path / "play"]))[1] == "the files' own split is kept"
    server.asked.clear()
    assert "already there" in walk(tmp_path).stdout
    assert server.asked == []
    (tmp_path / "play" / "wiki.valid.txt").unlink()
    assert walk(tmp_path).exit_code == 0
    assert names_in(tmp_path / "play") == texts | {f"{text}.sha256" for text in texts}
    (tmp_path / "play" / "wiki.test.txt").write_text("mine")
    assert "wiki.test.txt: changed" in refused(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:evil.txt", "a/..", "a\\..\\..\\evil.txt"],
)
def test_an_archive_that_names_places_outside_is_refused(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["a.zip"] = zipped(("good.txt", b"good"), (name, b"evil"))
    give(monkeypatch, Source(server.url("a.zip"), ("good.txt",), unpack=download.unzip, room=1_000))
    assert "unsafe name" in refused(tmp_path / "data")
    assert names_in(tmp_path) == {"data"} and names_in(tmp_path / "data" / "play") == set()


def test_an_archive_that_unpacks_to_too_much_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["a.zip"] = zipped(("good.txt", bytes(1_001)))
    give(monkeypatch, Source(server.url("a.zip"), ("good.txt",), unpack=download.unzip, room=1_000))
    assert "1,001 bytes, 1,000 are allowed" in refused(tmp_path)
    assert names_in(tmp_path / "play") == set()


def test_a_damaged_archive_is_one_line(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["a.zip"] = zipped(("good.txt", TEXT))[:-100]
    give(monkeypatch, Source(server.url("a.zip"), ("good.txt",), unpack=download.unzip, room=10**6))
    assert "damaged archive" in refused(tmp_path)


def test_enwik8_is_cut_between_characters_and_keeps_every_byte(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "aé€𝄞".encode() * 20  # 1 + 2 + 3 + 4 bytes, 200 in all
    server.pages["e.zip"] = zipped(("enwik8", whole))
    texts = ("enwik8.train.txt", "enwik8.valid.txt", "enwik8.test.txt")
    source = Source(server.url("e.zip"), texts, unpack=download.unzip_enwik8, room=200)
    give(monkeypatch, source)
    for number, ends in enumerate(((100, 150), (102, 155), (109, 158), (108, 199))):  # inside é, €, 𝄞 and between
        monkeypatch.setattr(download, "ENWIK8_ENDS", ends)
        folder = tmp_path / str(number)
        assert walk(folder).exit_code == 0
        pieces = [(folder / "play" / text).read_bytes() for text in texts]
        assert b"".join(pieces) == whole
        assert all(piece.decode("utf-8") for piece in pieces)
        for end, length in zip(ends, (len(pieces[0]), len(pieces[0]) + len(pieces[1])), strict=True):
            assert 0 <= end - length < 4  # a character has at most four bytes


def test_enwik8_is_cut_as_is_customary() -> None:
    (source,) = next(each for each in download.OFFERS if each.name == "enwik8").sources
    assert download.ENWIK8_ENDS == (90_000_000, 95_000_000) and source.room == 100_000_000


def test_a_book_loses_its_header_footer_and_carriage_returns(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["pg1.txt"] = BOOK.encode()
    give(monkeypatch, Source(server.url("pg1.txt"), ("tea.txt",), unpack=download.strip))
    assert walk(tmp_path).exit_code == 0
    text = "TEA\n\nBy “Nobody”\n\n* * *\n\nThe end.\n"
    assert (tmp_path / "play" / "tea.txt").read_bytes() == text.encode()
    assert list(documents(files([tmp_path / "play"]))) == [text]


@pytest.mark.parametrize("mark", ["*** START OF", "*** END OF"])
def test_a_page_that_is_no_book_is_refused(
    mark: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["pg1.txt"] = BOOK.replace(mark, "").encode()
    give(monkeypatch, Source(server.url("pg1.txt"), ("tea.txt",), unpack=download.strip))
    assert "not a Project Gutenberg text" in refused(tmp_path)
    assert names_in(tmp_path / "play") == set()


def test_old_books_have_other_marks(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_text(
        "Header\n***START OF THIS PROJECT GUTENBERG EBOOK A LONG\nTITLE***\nBody\n"
        "End of the Project Gutenberg EBook of Tea\n*** END OF THIS PROJECT GUTENBERG EBOOK TEA ***\n"
    )
    download.strip(page, tmp_path, Source("", ("tea.txt",)))
    assert (tmp_path / "tea.txt").read_text() == "Body\n"


def test_progress_shows_bytes_rate_and_time_left() -> None:
    # 1,500,000 bytes to go at 500,000 a second: three seconds
    line = download.progress("a.txt", 500_000, 2_000_000, 500_000.0)
    assert line == "a.txt: 500,000 of 2,000,000 bytes, 0.5 MB/s, 3 s left"
    assert download.progress("a.txt", 500_000, 0, 500_000.0) == "a.txt: 500,000 bytes, 0.5 MB/s"


def test_a_terminal_sees_the_progress(
    offer: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    download.fetch(download.OFFERS[0], tmp_path)
    shown = capsys.readouterr().err
    assert "\rplay.txt: 65,536 of 228,000 bytes" in shown and shown.endswith("\r\x1b[K")


def test_a_server_that_asks_for_it_gets_a_pause(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    server.pages.update({"a.txt": b"a", "b.txt": b"b"})
    sources = tuple(Source(server.url(text), (text,)) for text in ("a.txt", "b.txt"))
    download.fetch(Offer("two", "two texts", "none", sources, pause=2.0), tmp_path)
    assert pauses == [2.0, 2.0]


def test_the_list_names_every_corpus_with_its_licence() -> None:
    result = CliRunner().invoke(download.main, ["--list"])
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and len(lines) == 1 + len(download.OFFERS)
    for offer, line in zip(download.OFFERS, lines[1:], strict=True):
        assert line.startswith(offer.name) and offer.licence in line and offer.sources[0].texts[0] in line


def test_every_offer_is_well_formed() -> None:
    names = [offer.name for offer in download.OFFERS]
    assert len(set(names)) == len(names)
    for offer in download.OFFERS:
        texts = [text for source in offer.sources for text in source.texts]
        assert len(set(texts)) == len(texts) and all(text.endswith(".txt") for text in texts)
        for source in offer.sources:
            assert source.url.startswith("https://")
            assert (len(source.sha256), source.size > 0) in ((64, True), (0, False))


def test_the_readme_lists_what_the_downloader_knows() -> None:
    readme = (Path(__file__).parents[1] / "data" / "README.md").read_text(encoding="utf-8")
    for offer in download.OFFERS:
        assert f"| {offer.name} |" in readme
        for source in offer.sources:
            assert source.sha256 in readme
            assert not source.size or f"{source.size:,}" in readme


def test_the_script_has_two_statements() -> None:
    script = Path(__file__).parents[1] / "scripts" / "download.py"
    docstring, imported, called = ast.parse(script.read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant)
    assert isinstance(imported, ast.ImportFrom) and imported.module == "mlx_gpt.download"
    assert isinstance(called, ast.Expr) and ast.unparse(called.value) == "main()"
