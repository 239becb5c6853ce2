"""Writing by turns: what is typed is a prompt that the model goes on from; a line that begins with / is a command."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from mlx_gpt import checkpoint
from mlx_gpt.checkpoint import MODEL, Checkpoint
from mlx_gpt.completion import remarks
from mlx_gpt.corpus import cache_folder
from mlx_gpt.decoding import Batch, Reading, Writer, read, streams
from mlx_gpt.errors import DataError, MlxGptError, SettingError
from mlx_gpt.replacing import replacing
from mlx_gpt.sampling import Taste

PROMPT = "> "
HISTORY, REMEMBERED = "generate_history", 1_000  # lines
IMPATIENT = 1.0  # seconds between two Ctrl-C that mean: leave
LARGEST_SEED = 2**63 - 1

COMMANDS = {
    "again": ("", "write the last text once more, with the next seed"),
    "set": ("NAME VALUE", "change how tokens are chosen, such as /set temperature 0.5"),
    "settings": ("", "show all that can be changed"),
    "seed": ("N", "the seed of the next text: the same seed, the same text"),
    "tokens": ("N", "the most tokens to write"),
    "stop": ("TEXT", r"end texts before this one, too (\n is the end of a line); alone, no longer before any"),
    "compare": ("DIR", "let a second run go on from the same prompts; alone, end that"),
    "save": ("FILE", "write the last text to a new file"),
    "help": ("", "show this"),
    "quit": ("", "leave, as Ctrl-D does"),
}


@dataclass
class Voice:
    """A model that writes, what it went on from, and its text so far, which begins with that."""

    trained: Checkpoint
    start: str = ""
    text: str = ""
    reading: Reading | None = None  # of the start

    @property
    def name(self) -> str:
        """Its stage and where it comes from."""
        path, stage = self.trained.path, self.trained.stage
        number = f"{stage.number} " if stage.number else ""  # a mixture has none
        return f"{number}{stage.name}, {path.parent if path.name == MODEL else path}"

    def pieces(self, taste: Taste, seed: int, tokens: int, stops: Sequence[str]) -> Iterator[str]:
        """Go on from the start, piece by piece, which `text` takes up. Raises TokenizerError for what is no text."""
        ids = [self.trained.tokenizer.eot, *self.trained.tokenizer.encode(self.start)]
        self.text = self.start
        if self.reading is None or self.reading.ids != ids[:-1]:
            self.reading = read(self.trained.model, ids)
        batch = Batch(self.trained.model, taste)
        batch.add(ids, seed, self.reading)
        for piece in streams(batch, [Writer(self.trained.tokenizer, tokens, stops)])[0]:
            self.text += piece
            yield piece


class Session:
    """What is asked for by turns, and what was written last."""

    def __init__(self, trained: Checkpoint, taste: Taste, seed: int, tokens: int, stops: Sequence[str]) -> None:
        self.voices = [Voice(trained)]
        self.taste, self.seed, self.tokens, self.stops = taste, seed, tokens, list(stops)
        self.begun, self.shown = False, ""  # shown: what of the texts stands before the pieces
        self._typed = sys.stdin.isatty()
        self._edited = self._typed and sys.stdout.isatty()
        self._interrupted = -IMPATIENT

    def run(self, prompt: str) -> None:
        """Take line after line, until /quit or the end of standard input. A prompt that is not empty is the first.

        Raises KeyboardInterrupt for a Ctrl-C where nothing is being written, or two of them at once.
        """
        with _history() if self._edited else contextlib.nullcontext():
            if self._typed:
                _notice(f"{self.voices[0].name}; /help tells the commands")
            lines = iter(["/" + prompt if prompt.startswith("/") else prompt] if prompt else [])
            while True:
                try:
                    line = next(lines, None)
                    if not self._obey(self._ask() if line is None else line):
                        return
                except MlxGptError as error:
                    _notice("Error: " + " ".join(str(error).split()))
                except EOFError:
                    if self._typed:
                        _notice("")
                    return

    def _ask(self) -> str:
        """The next line, without its end. Raises EOFError after the last one, DataError where it is not UTF-8."""
        if self._edited:
            return self._edit()
        if self._typed:
            click.echo(PROMPT, nl=False, err=True)
        raw = sys.stdin.buffer.readline()
        if not raw:
            raise EOFError
        try:
            return raw.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise DataError(f"a line that is not UTF-8 text (at byte {error.start:,})") from error

    def _edit(self) -> str:
        """A line from a terminal; Ctrl-C takes back what was typed so far, and is passed on where that is nothing."""
        while True:
            try:
                return input(PROMPT)
            except KeyboardInterrupt:
                if not _half_typed():
                    raise
                click.echo()
            except UnicodeDecodeError as error:
                raise DataError(f"a line that is not UTF-8 text (at byte {error.start:,})") from error

    def _obey(self, line: str) -> bool:
        """Do what a line asks for; False is the end. A Ctrl-C stops what is being done."""
        try:
            if line.startswith("/") and not line.startswith("//"):
                return self._command(*line[1:].partition(" ")[::2])
            if line or not self.begun:
                self._begin(line[1:] if line.startswith("//") else line)
            else:
                self._go_on()
        except KeyboardInterrupt:
            before, self._interrupted = self._interrupted, time.monotonic()
            if self._interrupted - before < IMPATIENT:
                raise
            click.echo()
        return True

    def _command(self, name: str, rest: str) -> bool:
        if name not in COMMANDS:
            nearest = difflib.get_close_matches(name, COMMANDS, 1)
            hint = f"the nearest is /{nearest[0]}" if nearest else "/help tells the commands"
            raise SettingError(f"no command /{name}; {hint}; a prompt that begins with / is typed with //")
        if rest.strip() and not COMMANDS[name][0]:
            raise SettingError(f"/{name} {rest.strip()}: nothing follows /{name}")
        word = rest.strip()
        match name:
            case "again":
                if not self.begun:
                    raise SettingError("/again: nothing is written yet; type a prompt")
                self.seed += 1
                self._write()
            case "set":
                self._set(*word.partition(" ")[::2])
            case "settings":
                self._show_settings()
            case "seed":
                self.seed = _whole(name, word, 0, LARGEST_SEED)
            case "tokens":
                self.tokens = _whole(name, word, 1, None)
            case "stop":
                self.stops = [*self.stops, rest.replace(r"\n", "\n")] if rest else []
            case "compare":
                self._compare(word)
            case "save":
                self._save(word)
            case "help":
                self._show_help()
        return name != "quit"

    def _begin(self, prompt: str) -> None:
        told = [voice.trained.tokenizer.encode(prompt) for voice in self.voices]  # before anything is changed or shown
        for voice, ids in zip(self.voices, told, strict=True):
            voice.start = voice.text = prompt
            for remark in remarks(voice.trained, [voice.trained.tokenizer.eot, *ids]):
                _notice(f"{voice.name}: {remark}" if len(self.voices) > 1 else remark)
        self.begun, self.shown = True, prompt
        self._write()

    def _go_on(self) -> None:
        """With the next seed: the same one would choose by the same chances as it did before."""
        for voice in self.voices:
            voice.start = voice.text
        self.seed, self.shown = self.seed + 1, ""
        self._write()

    def _write(self) -> None:
        for voice in self.voices:
            voice.text = voice.start
        for voice in self.voices:
            if len(self.voices) > 1:
                click.secho(f"--- {voice.name}, seed {self.seed}", dim=True)
            click.echo(self.shown, nl=False)
            for piece in voice.pieces(self.taste, self.seed, self.tokens, self.stops):
                click.echo(piece, nl=False)
                sys.stdout.flush()
            click.echo()

    def _set(self, name: str, told: str) -> None:
        field = name.removeprefix("--").replace("-", "_")
        known = dataclasses.asdict(Taste())
        if field not in known:
            nearest = difflib.get_close_matches(field, known, 1, cutoff=0.0) if field else []
            hint = f"the nearest is {nearest[0]}" if nearest else f"they are {', '.join(known)}"
            raise SettingError(f"/set {name}: no such setting; {hint}")
        value: float | str = told.strip()
        with contextlib.suppress(ValueError):  # then Settings says what is expected
            value = type(known[field])(value)
        try:
            self.taste = dataclasses.replace(self.taste, **{field: value})  # type: ignore[arg-type]
        except SettingError as error:
            raise SettingError("/set " + str(error).removeprefix("--")) from error

    def _compare(self, word: str) -> None:
        if not word:
            del self.voices[1:]
            return
        second = checkpoint.load(checkpoint.run_folder(None, _path("compare", word)))
        self.voices[1:] = [Voice(second, self.voices[0].start, self.voices[0].text)]

    def _save(self, word: str) -> None:
        path = _path("save", word)
        if not self.begun:
            raise SettingError(f"/save {word}: nothing is written yet; type a prompt")
        if path.exists():
            raise SettingError(f"/save {word}: is there already; name a new file")
        texts = [voice.text + "\n" for voice in self.voices]
        if len(texts) > 1:
            texts = [f"--- {voice.name}\n{text}" for voice, text in zip(self.voices, texts, strict=True)]
        with replacing(path) as file:
            file.write("".join(texts).encode())

    def _show_settings(self) -> None:
        rows: dict[str, object] = dataclasses.asdict(self.taste)
        rows |= {"seed": self.seed, "tokens": self.tokens, "stop": " ".join(map(repr, self.stops))}
        rows |= {"run": self.voices[0].name, "compare": "".join(voice.name for voice in self.voices[1:])}
        for name, value in rows.items():
            click.echo(f"{name:20}{value}".rstrip())

    def _show_help(self) -> None:
        for name, (argument, told) in COMMANDS.items():
            click.echo(f"/{name} {argument}".ljust(20) + told)
        click.echo("Any other line is a prompt, //x the prompt /x; an empty line goes on with the last text.")
        click.echo("Ctrl-C stops a text or takes back a line, twice leaves; the arrows find earlier lines.")


def _whole(name: str, word: str, low: int, high: int | None) -> int:
    if not word.isdecimal() or not low <= int(word[:20]) or (high is not None and int(word[:20]) > high):
        most = f" to {high}" if high is not None else " or more"
        raise SettingError(f"/{name} {word}".rstrip() + f": expected a whole number, {low}{most}")
    return int(word)


def _path(name: str, word: str) -> Path:
    if not word or "\0" in word:
        raise SettingError(f"/{name}: expected the name of a {'file' if name == 'save' else 'folder'}")
    return Path(os.path.expanduser(word))


def _half_typed() -> bool:
    with contextlib.suppress(ImportError):
        import readline

        return bool(readline.get_line_buffer())
    return False


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Editing of lines, and those of sessions before, where Python has its readline and the cache can be written."""
    try:
        import readline
    except ImportError:
        yield
        return
    path = cache_folder() / HISTORY
    readline.set_history_length(REMEMBERED)
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)


def _notice(message: str) -> None:
    click.echo(message, err=True)
