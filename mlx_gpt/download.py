"""python -m mlx_gpt.download: fetch public corpora, checked by SHA-256, as text for `train --data`."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import os
import re
import shutil
import ssl
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import click

from mlx_gpt import __version__
from mlx_gpt.door import Door
from mlx_gpt.errors import DataError, SettingError

BLOCK = 2**16  # bytes read at a time
PATIENCE = 30.0  # seconds without a byte before the server counts as gone
LARGEST = 2**25  # bytes of a file whose size is not published
ENWIK8_ENDS = (90_000_000, 95_000_000)  # bytes: where training and validation text end
UNSAFE = re.compile(r"^[/\\]|:|(?:^|[/\\])\.\.(?:[/\\]|$)")  # a name that leads out of its folder
INSTEAD = "train on the built-in stories or on your own text with --data"
START = re.compile(r"^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG EBOOK[^*]*\*\*\*[^\n]*$", re.M)
END = re.compile(r"^(?:\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG|End of (?:the )?Project Gutenberg)", re.M)


@dataclass(frozen=True)
class Source:
    """One file to fetch and the texts it becomes; `unpack(file, empty folder, source)` writes those texts."""

    url: str
    texts: tuple[str, ...]
    size: int = 0  # bytes; 0 where none is published
    sha256: str = ""  # of the file at the address; empty where none is published
    unpack: Callable[[Path, Path, Source], None] | None = None
    room: int = 0  # bytes that it may unpack to at most


@dataclass(frozen=True)
class Offer:
    """A corpus that can be fetched by its name."""

    name: str
    what: str
    licence: str
    sources: tuple[Source, ...]
    pause: float = 0.0  # seconds between two requests, for servers that ask for it


def unzip(archive: Path, into: Path, source: Source) -> None:
    """Unpack an archive without its folders, `.raw` as `.txt`. Raises DataError if unsafe or damaged."""
    try:
        with zipfile.ZipFile(archive) as whole:
            unsafe = [each.filename for each in whole.infolist() if UNSAFE.search(each.filename)]
            if unsafe:
                raise DataError(f"{archive}: unsafe name {unsafe[0]!r}; nothing was unpacked")
            size = sum(entry.file_size for entry in whole.infolist())  # zipfile yields no more than that
            if size > source.room:
                raise DataError(f"{archive}: would unpack to {size:,} bytes, {source.room:,} are allowed")
            for entry in whole.infolist():
                if not entry.is_dir():
                    text = into / entry.filename.rpartition("/")[2].replace(".raw", ".txt")
                    with whole.open(entry) as packed, text.open("wb") as file:
                        shutil.copyfileobj(packed, file, BLOCK)
    except (RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{archive}: damaged archive ({error})") from error


def unzip_enwik8(archive: Path, into: Path, source: Source) -> None:
    """Unpack enwik8 and cut it at ENWIK8_ENDS, each moved back to the start of its UTF-8 character."""
    unzip(archive, into, source)
    data, start = (into / "enwik8").read_bytes(), 0
    for text, end in zip(source.texts, (*ENWIK8_ENDS, len(data)), strict=True):
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        (into / text).write_bytes(data[start:end])
        start = end


def strip(page: Path, into: Path, source: Source) -> None:
    """Write a book without Project Gutenberg's header and footer, lines ending in a newline only."""
    whole = page.read_bytes().decode(errors="replace").replace("\r\n", "\n")
    start = START.search(whole)
    end = END.search(whole, start.end()) if start else None
    if start is None or end is None:
        raise DataError(f"{page}: not a Project Gutenberg text (its START or END line is missing)")
    (into / source.texts[0]).write_bytes(whole[start.end() : end.start()].strip().encode() + b"\n")


# fmt: off
GITHUB = "https://raw.githubusercontent.com/karpathy"
HUB = "https://huggingface.co/datasets"
TINY = f"{HUB}/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/TinyStoriesV2-GPT4"
WIKI = ("wiki.train.txt", "wiki.valid.txt", "wiki.test.txt")
WIKIPEDIA = "CC BY-SA 3.0, GFDL"  # its licences
BOOKS = {
    11: "alice-in-wonderland", 36: "war-of-the-worlds", 84: "frankenstein", 98: "tale-of-two-cities",
    120: "treasure-island", 174: "dorian-gray", 345: "dracula", 1342: "pride-and-prejudice",
    1661: "sherlock-holmes", 2701: "moby-dick",
}
OFFERS = (
    Offer("tinyshakespeare", "plays of Shakespeare", "public domain", (
        Source(f"{GITHUB}/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
               ("input.txt",), 1_115_394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),)),
    Offer("names", "32,033 first names, one a line", "MIT", (
        Source(f"{GITHUB}/makemore/988aa59e4d8fefa526d06f3b453ad116258398d4/names.txt",
               ("names.txt",), 228_145, "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"),)),
    Offer("tinystories", "short stories in simple words, by GPT-4", "CDLA-Sharing-1.0", (
        Source(f"{TINY}-train.txt", ("TinyStoriesV2-GPT4-train.txt",), 2_227_753_162,
               "6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443"),
        Source(f"{TINY}-valid.txt", ("TinyStoriesV2-GPT4-valid.txt",), 22_502_601,
               "6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d"))),
    Offer("wikitext-2", "good articles of Wikipedia, raw", WIKIPEDIA, (
        Source(f"{HUB}/ggml-org/ci/resolve/927b3642933080f1b0e811e2f916e14c292992f9/wikitext-2-raw-v1.zip", WIKI,
               4_721_645, "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11", unzip, 2**24),)),
    Offer("wikitext-103", "more good articles of Wikipedia, raw", WIKIPEDIA, (
        Source(f"{HUB}/mattdangerw/wikitext-103-raw/resolve/3555105b17ae31cc619a136fac72dbe2865c3738/"
               "wikitext-103-raw-v1.zip", WIKI, 191_984_949,
               "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794", unzip, 2**30),)),
    Offer("enwik8", "Wikipedia's XML, the Hutter Prize's text", WIKIPEDIA, (
        Source("https://mattmahoney.net/dc/enwik8.zip",
               ("enwik8.train.txt", "enwik8.valid.txt", "enwik8.test.txt"), 36_445_475,
               "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc", unzip_enwik8, 10**8),)),
    Offer("gutenberg", "ten well-known English novels", "public domain in the USA", tuple(
        Source(f"https://gutenberg.pglaf.org/cache/epub/{id}/pg{id}.txt", (f"{book}.txt",), unpack=strip)
        for id, book in BOOKS.items()), pause=2.0),
)
# fmt: on


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def noted(path: Path) -> str:
    """The SHA-256 written down beside a file, or an empty string."""
    beside = Path(f"{path}.sha256")
    return beside.read_text("utf-8", "replace").partition(" ")[0] if beside.exists() else ""


def complete(source: Source, folder: Path) -> bool:
    """Whether every text is in place. Raises DataError for one that is not what was fetched."""
    there = [folder / text for text in source.texts if (folder / text).exists()]
    for path in there:
        expected = noted(path) if source.unpack else source.sha256 or noted(path)
        if not expected:
            raise DataError(f"{path}: not put there by this command; move it away to fetch the corpus")
        if digest(path) != expected:
            raise DataError(f"{path}: changed (its SHA-256 is not {expected}); delete it to fetch it again")
    return len(there) == len(source.texts)


def open_url(name: str, url: str, have: int) -> http.client.HTTPResponse:
    """The answer to a request for everything after the first `have` bytes. Raises DataError without one."""
    headers = {"User-Agent": f"mlx_gpt/{__version__}", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response: http.client.HTTPResponse = urlopen(Request(url, headers=headers), timeout=PATIENCE)
        return response
    except HTTPError as error:
        raise DataError(f"{name}: {url} answers {error.code} {error.reason}; {INSTEAD}") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise DataError(f"{name}: Python has no certificates; run its Install Certificates.command") from error
        raise DataError(f"{name}: cannot be reached (no network?); {INSTEAD}") from error


def blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What arrives until the end, or until the connection breaks."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        while block := response.read(BLOCK):
            yield block


def progress(file: str, done: int, total: int, rate: float) -> str:
    """One line: bytes, rate in bytes a second, and the time left where the total is known."""
    left = f", {(total - done) / rate:,.0f} s left" if total and rate else ""
    return f"{file}: {done:,}{f' of {total:,}' if total else ''} bytes, {rate / 1e6:,.1f} MB/s{left}"


def download(name: str, source: Source, part: Path) -> None:
    """Fetch a file to `part`, going on where an attempt stopped. Raises DataError if this one breaks off."""
    have = part.stat().st_size if part.exists() else 0
    if source.size and have == source.size:
        return
    terminal = sys.stderr.isatty()
    # what has no size has no hash either: the halves of two versions could be joined unnoticed
    with open_url(name, source.url, have if have < source.size else 0) as response:
        have = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        total = source.size if response.length is None else have + response.length
        if source.size and total != source.size:
            raise DataError(f"{name}: {source.url} offers {total:,} bytes where {source.size:,} are expected")
        done, shown, started = have, 0.0, time.monotonic()
        with part.open("ab" if have else "wb") as file:
            for block in blocks(response):
                done += len(block)
                if done > (source.size or LARGEST):
                    raise DataError(f"{name}: {source.url} sends more than {source.size or LARGEST:,} bytes")
                file.write(block)
                if terminal and time.monotonic() - shown > 0.2:
                    shown = time.monotonic()
                    line = progress(part.stem, done, total, (done - have) / (shown - started + 1e-9))
                    click.echo(f"\r{line}\x1b[K", nl=False, err=True)
    click.echo("\r\x1b[K" if terminal else "", nl=False, err=True)
    if done < total:
        raise DataError(f"{name}: broke off after {done:,} of {total:,} bytes; the same command tries again")


def place(name: str, source: Source, part: Path, folder: Path) -> None:
    """Check a fetched file, unpack it and put its texts in place, each with its SHA-256 beside it."""
    fetched = digest(part)
    if source.sha256 not in ("", fetched):
        raise DataError(f"{name}: SHA-256 of {source.url} is {fetched}, not {source.sha256}; it was not kept")
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=folder) as scratch:
        if source.unpack:
            source.unpack(part, Path(scratch), source)
        for text in source.texts:
            new, final = (Path(scratch) / text if source.unpack else part), folder / text
            found, size = digest(new) if source.unpack else fetched, new.stat().st_size
            if not source.sha256 and noted(final) not in ("", found):
                raise DataError(f"{final}: not as noted in {final}.sha256; delete that note to accept it")
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            Path(f"{final}.sha256").write_text(f"{found}  {text}\n", "utf-8")  # first: no text is without
            os.replace(new, final)
            click.echo(f"{final}: {size:,} bytes, SHA-256 {found}")


def fetch(offer: Offer, folder: Path) -> None:
    """Fetch what is missing of a corpus. Raises DataError for what network, disk or folder do not allow."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in offer.sources:
            if complete(source, folder):
                click.echo(f"{offer.name}: {', '.join(source.texts)} already there and unchanged")
                continue
            part = folder / (source.url.rpartition("/")[2] + ".part")
            needed = source.size + source.room - (part.stat().st_size if part.exists() else 0)
            if (free := shutil.disk_usage(folder).free) < needed:
                raise DataError(f"{folder}: {free:,} bytes free on this disk where {needed:,} are needed")
            download(offer.name, source, part)
            try:
                place(offer.name, source, part, folder)
            except DataError:
                part.unlink(missing_ok=True)
                raise
            part.unlink(missing_ok=True)
            time.sleep(offer.pause)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{error.filename or folder}: {reason}; --folder names another place") from error


def table() -> str:
    """Every corpus that can be fetched: name, what, size, licence, files."""
    rows = [("name", "what", "download", "licence", "files")]
    for offer in OFFERS:
        texts = [text for source in offer.sources for text in source.texts]
        files = ", ".join(texts) if len(texts) < 4 else f"{texts[0]} and {len(texts) - 1} more"
        size = sum(source.size for source in offer.sources) / 1e6
        rows.append((offer.name, offer.what, f"{size:,.1f} MB" if size else "unknown", offer.licence, files))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


@click.command(cls=Door)
@click.argument("names", nargs=-1)
@click.option("--folder", type=Path, default="data", show_default=True, help="Where the corpora go.")
@click.option("--list", "listing", is_flag=True, help="List the corpora and stop.")
def main(names: tuple[str, ...], folder: Path, listing: bool) -> None:
    """Fetch public corpora by their names, ready for `train --data`; what broke off goes on from there."""
    known = {offer.name: offer for offer in OFFERS}
    if listing or not names:
        click.echo(table())
        return
    for name in (each for each in names if each not in known):
        nearest = difflib.get_close_matches(name.lower(), known, 1, cutoff=0.0)[0]
        raise SettingError(f"{name}: no such corpus; did you mean {nearest}? --list shows them all")
    for name in dict.fromkeys(names):
        fetch(known[name], folder / name)
        click.echo(f"{name}: train on it with --data {folder / name}")


if __name__ == "__main__":
    main()
