"""What all doors share: one-line errors with exit code 2, options that know their nearest, and who names a run."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import click

from mlx_gpt.errors import DataError, MlxGptError, SettingError, Stopped
from mlx_gpt.recipe import Settings, option
from mlx_gpt.replacing import replacing

Function = TypeVar("Function", bound=Callable[..., Any])
MANY = ("--data", "--runs")  # options that take every following word up to the next option, where they take several
QUIET_SECONDS = 20.0  # between two lines of progress where nobody watches a terminal


class Mistake(click.ClickException):
    """One line on standard error, exit code 2."""

    exit_code = 2


class Door(click.Command):
    """A Click command that prints the user's mistakes in one line and exits with 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"], "max_content_width": 110})
        super().__init__(*args, **kwargs)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As Click, but a wrong command line is one line: the usage stands in --help."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise click.UsageError(" ".join(error.format_message().split())) from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As Click, but `--data a b` means `--data a --data b`, and an unknown option names the nearest."""
        try:
            many = [each.opts[0] for each in self.params if getattr(each, "multiple", False) and each.opts[0] in MANY]
            return super().parse_args(ctx, _spread(args, many))
        except click.NoSuchOption as error:
            known = [name for each in self.get_params(ctx) for name in each.opts if name.startswith("--")]
            nearest = difflib.get_close_matches(error.option_name, known, 1, cutoff=0.0)
            hint = f"; the nearest is {nearest[0]}" if nearest else ""
            raise click.UsageError(f"{self.owner(ctx)} has no setting {error.option_name}{hint}", ctx) from error

    def owner(self, ctx: click.Context) -> str:
        """Who is said not to have an unknown option."""
        return f"mlx_gpt.{ctx.info_name}" if ctx.parent else str(ctx.info_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; a mistake of the user's becomes one line and exit code 2, Ctrl-C exit code 130."""
        try:
            return super().invoke(ctx)
        except MlxGptError as error:
            raise Mistake(" ".join(str(error).split())) from error
        except Stopped as stop:  # the run has said how to go on
            ctx.exit(128 + stop.signal)
        except KeyboardInterrupt:
            click.echo("\nstopped", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except UnicodeEncodeError as error:
            what = ascii(error.object[error.start])
            raise Mistake(f"standard output is {error.encoding} and cannot show {what}; set PYTHONUTF8=1") from error
        except OSError as error:
            raise Mistake(f"{error.filename or 'writing'}: {error.strerror or error}") from error
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "alloc" not in str(error).lower():
                raise
            remedy = "take a smaller --batch-size, --length or --width, or for counting a smaller --memory"
            raise Mistake(f"not enough memory ({error}); {remedy}") from error


def _spread(args: Sequence[str], options: Sequence[str]) -> list[str]:
    spread: list[str] = []
    many = ""
    for word in args:
        if word.startswith("-") and word != "-":
            many = word if word in options else ""
            spread.append(word)
        elif many and spread[-1] != many:
            spread += [many, word]
        else:
            spread.append(word)
    return spread


class TasteDoor(Door):
    """The door's own options and those of sampling.Taste."""

    greedy = False  # unless a temperature is given

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from mlx_gpt.sampling import Taste

        *own, help_option = super().get_params(ctx)
        return [*own, *setting_options(Taste(temperature=0.0) if self.greedy else Taste()), help_option]


class GreedyDoor(TasteDoor):
    """The same, with the likeliest tokens where no temperature is given."""

    greedy = True


def setting_options(settings: Settings) -> list[click.Option]:
    """An option for every field of a Config or recipe, with its bounds, help and default."""
    return [_option(field, getattr(settings, field.name)) for field in dataclasses.fields(settings)]


def _option(field: dataclasses.Field[Any], default: Any) -> click.Option:
    guards = field.metadata
    name = option(field.name)
    if isinstance(default, bool):
        return click.Option([f"{name}/--no-{name[2:]}"], default=default, show_default=True, help=guards["help"])
    kind: click.ParamType[Any]
    if guards["choices"]:
        kind = click.Choice(guards["choices"])
    elif isinstance(default, str):
        return click.Option([name], default=default, show_default=bool(default), help=guards["help"])
    elif guards["auto"]:
        return click.Option(
            [name],
            type=_WholeOrAuto(guards["low"], guards["high"]),
            default=default,
            show_default=True,
            help=guards["help"],
        )
    elif isinstance(default, int):
        kind = click.IntRange(guards["low"], guards["high"])
    else:
        kind = click.FloatRange(guards["low"], guards["high"])
    return click.Option([name], type=kind, default=default, show_default=True, help=guards["help"])


class _WholeOrAuto(click.IntRange):
    """A whole number, or the word auto, which stands for 0."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return 0 if value in ("auto", 0) else super().convert(value, param, ctx)


def notice(message: str) -> None:
    """One dim line on standard error."""
    click.secho(message, err=True, dim=True)


def passing(said: str) -> None:
    """What is being done, dim on standard error in the place of what was said so before; "" in the end.

    Nothing where nobody watches a terminal.
    """
    if sys.stderr.isatty():
        click.secho("\r\x1b[K" + (f"{said:<70}" if said else ""), err=True, nl=False, dim=True)


def counted(number: int, thing: str) -> str:
    """1 thing, or 1,000 things."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def as_json(told: Any) -> str:
    """One JSON object in one line; what is infinite or no number is null there."""
    return json.dumps(_finite(told))


def _finite(told: Any) -> Any:
    if isinstance(told, Mapping):
        return {name: _finite(value) for name, value in told.items()}
    if isinstance(told, list):
        return [_finite(value) for value in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


def which_run(function: Function) -> Function:
    """--stage N (its default run) or --run DIR."""
    function = click.option("--run", type=click.Path(path_type=Path), help="The folder of a trained run.")(function)
    return click.option("--stage", type=int, help="A stage: 1 to 11; its default run under runs/ is taken.")(function)


def runs_folder(function: Function) -> Function:
    """--runs DIR."""
    kind, told = click.Path(path_type=Path), "Folder of the runs."
    return click.option("--runs", type=kind, default=Path("runs"), show_default=True, help=told)(function)


def shown_runs(function: Function) -> Function:
    """--runs DIR..., for `roster`."""
    kind, told = click.Path(path_type=Path), "Folder of the runs, or the runs to show."
    where = click.option(
        "--runs", multiple=True, type=kind, default=("runs",), show_default=True, metavar="DIR...", help=told
    )
    return where(function)


def one_to_another(function: Function) -> Function:
    """FILE --out FILE."""
    told = "The file to write; - is standard output."
    return click.argument("file")(click.option("--out", "-o", required=True, metavar="FILE", help=told)(function))


def cache_kind(function: Function) -> Function:
    """--keep-first N and --cache-bits 8|4: another cache of keys and values than the model's own."""
    keep = "Read on where the context is full, instead of reading its last half again: the oldest tokens are forgotten "
    keep += "one by one, these first ones never (4 do). Stages 10 and 11."
    few = "Keep keys and values in so many bits a number. Stages 9 to 11."
    function = click.option("--cache-bits", type=click.Choice([8, 4]), help=few)(function)
    return click.option("--keep-first", type=click.IntRange(0), metavar="N", help=keep)(function)


def mixed_runs(function: Function) -> Function:
    """--mix DIR, once for each member, instead of --stage or --run."""
    told = "The folder of a trained run, given once for each member: their mixture is the model."
    return click.option("--mix", multiple=True, type=click.Path(path_type=Path), metavar="DIR", help=told)(function)


def read_whole(file: str, out: str) -> bytes:
    """The bytes of a file that goes to `out`; - is standard input, or output.

    Raises DataError for a file that cannot be read or is larger than memory, and SettingError where it would be written
    over itself, or where the folder of `out` is none.
    """
    if out != "-" and not Path(out).absolute().parent.is_dir():
        raise SettingError(f"--out {out}: no such folder; make it first")
    if out != "-" and Path(out).is_dir():
        raise SettingError(f"--out {out}: a folder; name a file")
    if file == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise DataError("-: nothing is piped into standard input; pipe a file or name one")
        return sys.stdin.buffer.read()
    try:
        if out != "-" and Path(out).exists() and Path(out).samefile(file):
            raise SettingError(f"--out {out}: the very file that is read; name another one")
        return Path(file).read_bytes()
    except MemoryError as error:
        raise DataError(f"{file}: larger than memory, and it is read whole; compress it in parts") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def write_whole(out: str, data: bytes) -> None:
    """Replace a file by these bytes, whole or not at all; - is standard output. Raises as `replacing` does."""
    if out == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with replacing(Path(out)) as file:
        file.write(data)


class Countdown:
    """One line on standard error, while entered: bytes done, and the time that is left."""

    def __init__(self, total: int) -> None:
        self._total, self._live = total, sys.stderr.isatty()
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            click.echo("\r\x1b[K", err=True, nl=False)

    def __call__(self, done: int) -> None:
        """So many bytes are done by now."""
        now = time.monotonic()
        if not done or now - self._shown < (0.2 if self._live else QUIET_SECONDS):
            return
        self._shown = now
        left = max(0, self._total - done) / done * (now - self._started)
        line = f"{done:,} of {self._total:,} bytes, ETA {int(left) // 60}:{int(left) % 60:02d}"
        click.echo(f"\r{line}\x1b[K" if self._live else line, err=True, nl=not self._live)
