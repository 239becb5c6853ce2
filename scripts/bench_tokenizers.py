"""Which tokenizer suits which stage: python scripts/bench_tokenizers.py --data ../tinystories"""

from __future__ import annotations

from mlx_gpt.device import pick_device  # before MLX, so that it finds the tuned BLAS

# isort: split
import dataclasses
import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from bench_cells import Cell, Scores, corpus_of, data_option, numbers_in, source_of, steps_for, sweep
from bench_figures import Figures, measured

from mlx_gpt import stages
from mlx_gpt.corpus import Source
from mlx_gpt.door import Door, notice
from mlx_gpt.errors import SettingError
from mlx_gpt.recipe import Descent

VERSION = 1  # of the JSON
COUNTED = 4  # the last stage that counts
SAME = {"tokens": "equal training tokens", "bytes": "equal training bytes"}
FIXED, BEST = "its own order", "best order"


@dataclasses.dataclass(frozen=True)
class Way:
    """A row of a table: a stage, with its own order or the best by the validation text."""

    stage: int
    order: str = ""

    def __str__(self) -> str:
        known = stages.stage(self.stage)
        return f"{self.stage} {known.name}" + (f", {self.order}" if self.order else "")


@click.command(cls=Door)
@data_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench_tokenizers"), show_default=True)
@click.option(
    "--tokenizers",
    default="byte,char,512,1024,2048,4096,8192,16384",
    show_default=True,
    help="byte, char, and sizes of BPE vocabularies.",
)
@click.option("--stages", "wanted", default="", help="Only these, e.g. 1,4,11.  [default: all]")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs of each neural cell.")
@click.option(
    "--tokens", type=click.IntRange(1_000), default=200_000, show_default=True, help="Training tokens of a neural cell."
)
@click.option(
    "--preset", type=click.Choice(("tiny", "small")), default="tiny", show_default=True, help="Size of neural stages."
)
@click.option("--quick", is_flag=True, help="Minutes: 20,000 tokens, and n-grams of their own order only.")
def main(
    data: tuple[str, ...],
    out: Path,
    tokenizers: str,
    wanted: str,
    seeds: int,
    tokens: int,
    preset: str,
    quick: bool,
) -> None:
    """Bits per byte of every stage with every tokenizer, on the same held-out bytes; the best of each row is marked.

    Stages 1 to 4 count the whole training text, so that every tokenizer has read the same bytes; stages 3 and 4 do it
    twice, with the order of their preset and with the one that is best on the validation text, for five bytes are less
    than five words. Neural stages are trained twice, too: on equal training tokens, where a large vocabulary sees
    more text, and on equal training bytes, as many as --tokens tokens of the middle tokenizer are; a step then costs
    what it costs, and the mean seconds of training stand below. A window is as long in tokens for all.

    --out keeps a run folder for each cell, and tokenizers.json. Run it again after an interruption: what is finished
    is not trained again.
    """
    pick_device()
    chosen = numbers_in(wanted, "--stages", 1) if wanted else stages.numbers()
    for number in chosen:
        stages.stage(number)
    sources = {name: _source(data, name) for name in tokenizers.split(",")}
    tokens = 20_000 if quick else tokens
    orders = (FIXED,) if quick else (FIXED, BEST)
    ways = [Way(n, order) for n in chosen if n <= COUNTED for order in (orders if n in (3, COUNTED) else ("",))]
    neural = [Way(n) for n in chosen if n > COUNTED]
    parts: dict[str, Callable[[], Figures]] = {}
    if ways:
        parts["counted"] = functools.partial(_counted, ways, sources, out)
    if neural:
        for same in SAME:
            parts[same] = functools.partial(_neural, neural, sources, same, preset, tokens, seeds, out)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"tokenizers": list(sources), "preset": preset, "tokens": tokens, "seeds": seeds}
    measured(parts, VERSION, settings, out / "tokenizers.json")


def _source(data: tuple[str, ...], name: str) -> Source:
    if name in ("byte", "char"):
        return source_of(data, name, 2_048)
    if not name.isdigit() or int(name) < 259:
        raise SettingError(f"--tokenizers {name}: expected byte, char, or the size of a BPE vocabulary, 259 at least")
    return source_of(data, "bpe", int(name))


def _counted(ways: list[Way], sources: dict[str, Source], out: Path) -> Figures:
    """N-grams of the whole text."""
    cells = []
    for way in ways:
        known: Any = stages.stage(way.stage)
        config = dataclasses.replace(known.config, order=0) if way.order == BEST else known.config
        kind = f"{known.run}{'-auto' if way.order == BEST else ''}"
        cells += [Cell(f"{kind}-{name}", way.stage, config, known.recipe, each) for name, each in sources.items()]
    return _table("the whole training text", ways, sources, [[each] for each in sweep(cells, out)])


def _neural(
    ways: list[Way], sources: dict[str, Source], same: str, preset: str, tokens: int, seeds: int, out: Path
) -> Figures:
    """Descents on as many tokens, or on as many bytes."""
    shares = {name: _bytes_a_token(source) for name, source in sources.items()}
    middle = sorted(shares, key=lambda name: shares[name])[len(shares) // 2]
    cells, looked_up = list[Cell](), list[list[int]]()
    for way in ways:
        known: Any = stages.stage(way.stage).preset(preset)
        for name, source in sources.items():
            read = tokens * (shares[middle] / shares[name] if same == "bytes" else 1)
            recipe: Descent = steps_for(read, known.recipe, known.config)
            looked_up.append(list(range(len(cells), len(cells) + seeds)))
            cells += [
                Cell(
                    f"{stages.stage(way.stage).run}-{name}-{same}",
                    way.stage,
                    known.config,
                    dataclasses.replace(recipe, seed=seed),
                    source,
                )
                for seed in range(seeds)
            ]
    found = sweep(cells, out)
    how = f"{SAME[same]}: " + (f"{tokens:,}" if same == "tokens" else f"{tokens * shares[middle]:,.0f}")
    return _table(f"{how}, preset {preset}", ways, sources, [[found[at] for at in each] for each in looked_up])


@functools.cache
def _bytes_a_token(source: Source) -> float:
    train = corpus_of(source).train
    return train.bytes / train.tokens


def _table(title: str, ways: list[Way], sources: dict[str, Source], found: list[list[Scores]]) -> Figures:
    """A row a stage, a column a tokenizer; `found` has the seeds of each, row by row."""
    sizes = {name: corpus_of(source).tokenizer.vocab_size for name, source in sources.items()}
    heads = [name if name.isalpha() else f"bpe {sizes[name]}" for name in sources]
    short = [source for name, source in sources.items() if name.isdigit() and sizes[name] < int(name)]
    if short:
        notice("a vocabulary was lowered to what this text can fill; the table names its real size")
    click.echo(f"  bits per byte, {title}; * the best of its row\n")
    click.echo(f"  {'stage':<34}" + "".join(f"{head:>10} " for head in heads))
    click.echo(f"  {'bytes a token':<34}" + "".join(f"{_bytes_a_token(each):>10.2f} " for each in sources.values()))
    rows, took = [], dict[str, list[float]]()
    for place, way in enumerate(ways):
        cells = found[place * len(sources) : (place + 1) * len(sources)]
        means = [statistics.mean(one["bits_per_byte"] for one in each) for each in cells]
        best = min(range(len(means)), key=means.__getitem__)
        marks = ["*" if at == best else " " for at in range(len(means))]
        click.echo(f"  {way!s:<34}" + "".join(f"{mean:>10.4f}{mark}" for mean, mark in zip(means, marks, strict=True)))
        for name, each in zip(sources, cells, strict=True):
            rows.append({"stage": way.stage, "order": way.order, "tokenizer": name, "seeds": each})
            took.setdefault(name, []).extend(one["seconds"] for one in each)
    seconds = [statistics.mean(each) for each in took.values()]
    click.echo(f"  {'mean seconds of training':<34}" + "".join(f"{each:>10.1f} " for each in seconds))
    return {"title": title, "vocabularies": sizes, "rows": rows}


if __name__ == "__main__":
    main()
