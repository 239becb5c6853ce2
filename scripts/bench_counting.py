"""Measure the counting stages: python scripts/bench_counting.py --data TEXT, for a table, a JSON file and a plot."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from bench_counting_plot import draw, short

from mlx_gpt.door import Door, notice
from mlx_gpt.tokenizer import KINDS

VERSION = 1  # of the JSON
HERE = Path(__file__).resolve()
MB = 2**20
MOST_TOKENS = 2**31 - 2  # of one stream


@dataclasses.dataclass(frozen=True)
class Job:
    """One thing to measure, in a process of its own; see _perform."""

    task: str
    data: tuple[str, ...]
    tokenizer: str
    vocab_size: int
    folder: str
    tokens: int
    repeats: int
    noise: float
    ids: str
    order: int
    memory: str
    quick: bool
    eot: int = 0


@click.command(cls=Door)
@click.option("--data", multiple=True, metavar="PATH...", help="Files or folders; the built-in stories without it.")
@click.option("--tokenizer", type=click.Choice(KINDS), default="bpe", show_default=True, help="What a token is.")
@click.option("--vocab-size", type=click.IntRange(259, 2**20), default=8_000, show_default=True, help="Of BPE.")
@click.option("--orders", default="2,3,4,5,6", show_default=True, help="Orders to train at size 1.")
@click.option("--order", type=click.IntRange(2, 10), default=5, show_default=True, help="Order of everything else.")
@click.option(
    "--sizes", default="1,2,4,8", show_default=True, help="How large the text grows, in multiples of --tokens."
)
@click.option("--tokens", type=click.IntRange(1_000), default=1_000_000, show_default=True, help="Tokens of size 1.")
@click.option(
    "--noise",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Once the text is used up it is repeated, with this share of its tokens drawn anew: new n-grams must come.",
)
@click.option("--memory", default="", help="Count the largest size out of core, too, in so much memory, e.g. 500M.")
@click.option("--quick", is_flag=True, help="Seconds: to see that it works, not to believe.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench_counting.json"), show_default=True)
@click.option("--one", hidden=True, default="")
def main(
    data: tuple[str, ...],
    tokenizer: str,
    vocab_size: int,
    orders: str,
    order: int,
    sizes: str,
    tokens: int,
    noise: float,
    memory: str,
    quick: bool,
    out: Path,
    one: str,
) -> None:
    """Training over size and order, memory, scoring, distributions, generation, bytes on disk, text to ARPA.

    Every training runs in a process of its own, whose peak memory and CPU time are its own. Figures of one run are
    comparable with each other; a shared machine makes absolute ones jump. Where the kenlm package or an lmplz
    binary is found, it is measured in the same run.
    """
    if one:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # one Ctrl-C is told once, by the process that began
        job = json.loads(one)
        click.echo(json.dumps(_perform(Job(**{**job, "data": tuple(job["data"])}))))
        return
    from mlx_gpt.corpus import absolute_paths
    from mlx_gpt.errors import SettingError
    from mlx_gpt.recipe import size_in_bytes
    from mlx_gpt.replacing import replacing

    growth, heights = _numbers(sizes, "--sizes", 1_000), _numbers(orders, "--orders", 10)
    room = size_in_bytes(memory)
    if max(growth) * tokens > MOST_TOKENS:
        raise SettingError(f"--sizes {sizes}: {max(growth) * tokens:,} tokens; the most is {MOST_TOKENS:,}")
    if "-" in data:
        raise SettingError("--data -: standard input can be read only once, and here it is needed often; name a file")
    if not out.parent.is_dir() or out.is_dir() or not os.access(out.parent, os.W_OK) or out.suffix == ".png":
        raise SettingError(f"--out {out}: cannot be written; name a .json file in a folder of yours that exists")
    if quick:
        growth, heights, tokens, vocab_size = growth[:2], heights[:2], min(tokens, 20_000), min(vocab_size, 512)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        job = Job(
            "prepare", absolute_paths(data), tokenizer, vocab_size, folder, tokens, max(growth), noise,
            str(Path(folder) / "ids.txt"), order, memory, quick,
        )  # fmt: skip
        told = _run(job, "making the text to count")
        size = told["text"]["size_1_tokens"]
        job = dataclasses.replace(job, eot=told["eot"], vocab_size=told["text"]["vocab_size"], tokens=size)
        found: dict[str, Any] = {
            "version": VERSION,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": told["machine"],
            "text": told["text"],
            "settings": {"tokens": tokens, "sizes": growth, "orders": heights, "order": order, "noise": noise},
            "baseline_bytes": _run(dataclasses.replace(job, task="nothing"), "an empty process")["peak_bytes"],
        }
        if memory:  # first, for here --memory can turn out to be too little
            largest = dataclasses.replace(job, task="shards", tokens=size * max(growth))
            found["out_of_core"] = {"memory_bytes": room, **_point(_run(largest, f"counting in {memory}"))}
        found["growth"] = [_counted(dataclasses.replace(job, tokens=size * each)) for each in growth]
        found["orders"] = [_counted(dataclasses.replace(job, order=each)) for each in heights]
        found["queries"] = _run(dataclasses.replace(job, task="ask"), "asking the model of the whole training text")
        found["id_text_to_arpa"] = _arpa(job)
        found["lmplz"] = _lmplz(job)
    with replacing(out) as file:
        file.write(json.dumps(found, indent=1).encode() + b"\n")
    click.echo("\n".join(table(found)))
    drawn = draw(found, out.with_suffix(".png"))
    click.echo(f"\n{out}" + (f", {out.with_suffix('.png')}" if drawn else ""))
    if not drawn:
        notice("no plot: pip install 'mlx-gpt[plots]' draws one")


def _perform(job: Job) -> dict[str, Any]:
    """The figures of a job, ready for JSON."""
    from bench_counting_answers import ask
    from bench_counting_tasks import count_all, nothing, prepare, shards

    tasks = {"prepare": prepare, "nothing": nothing, "count": count_all, "shards": shards, "ask": ask}
    return tasks[job.task](job)


def _numbers(text: str, name: str, most: int) -> list[int]:
    from mlx_gpt.errors import SettingError

    words = text.split(",")
    if not all(word.strip().isdecimal() and 1 <= int(word) <= most for word in words):
        raise SettingError(f"{name} {text}: expected whole numbers from 1 to {most}, with commas between")
    return sorted({int(word) for word in words})


# --- processes


def _run(job: Job, doing: str) -> dict[str, Any]:
    """A job's figures, from a process of its own that says itself what is wrong."""
    from mlx_gpt.errors import TrainingError

    notice(doing)
    command = [sys.executable, str(HERE), "--one", json.dumps(dataclasses.asdict(job))]
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name
        raise TrainingError(f"{doing}: ended by {name}; with too little memory take smaller --sizes or --tokens")
    if ended.returncode:
        sys.exit(ended.returncode)
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def _counted(job: Job) -> dict[str, Any]:
    doing = f"counting {job.tokens:,} tokens, order {job.order}"
    return _point(_run(dataclasses.replace(job, task="count"), doing))


def _process(command: list[str], tokens: int, doing: str) -> dict[str, Any]:
    """A whole process, not ours to measure from within; {} where it fails, for the other figures are worth having."""
    notice(doing)
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
        said.seek(0)
        last = (said.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]
    if process.returncode:
        notice(f"{doing}: ended with exit code {process.returncode}, so it is left out ({last})")
        return {}
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cpu = used.ru_utime + used.ru_stime
    return _point({"tokens": tokens, "seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak})


def _point(measured: dict[str, Any]) -> dict[str, Any]:
    """With what follows from it."""
    tokens = measured["tokens"]
    return {
        **measured,
        "tokens_per_second": tokens / measured["seconds"],
        "cpu_us_per_token": measured["cpu_seconds"] / tokens * 1e6,
        "bytes_per_token": measured["peak_bytes"] / tokens,
    }


def _arpa(job: Job) -> dict[str, Any]:
    """Decimal ids to ARPA, a whole process from file to file."""
    command = [sys.executable, "-m", "mlx_gpt.arpa", "build", job.ids, "--order", str(job.order), "-o"]
    return _process([*command, str(Path(job.folder) / "out.arpa")], job.tokens, "id text to ARPA")


def _lmplz(job: Job) -> dict[str, Any]:
    """KenLM's own trainer on the same text, where it is on PATH."""
    binary = shutil.which("lmplz")
    if binary is None:
        notice("lmplz is not on PATH, so nothing is compared with it")
        return {}
    files = ["--text", job.ids, "--arpa", str(Path(job.folder) / "lmplz.arpa"), "-T", job.folder]
    command = [binary, "-o", str(job.order), "-S", "2G", "--discount_fallback", *files]
    return _process(command, job.tokens, "lmplz, id text to ARPA")


# --- what is told


def table(found: dict[str, Any]) -> Iterator[str]:
    """The figures as lines of text."""
    machine, text, asked = found["machine"], found["text"], found["queries"]
    yield f"{machine['description']}, {machine['cpus']} CPUs, NumPy {machine['numpy']}, {found['date']}"
    yield (
        f"{text['source']}: {text['training_tokens']:,} tokens to train on, {text['held_out_tokens']:,} held out, "
        f"{text['tokenizer']} vocabulary of {text['vocab_size']:,}"
    )
    yield ""
    heads = ("tokens", "wall s", "CPU s", "tokens/s", "CPU us/token", "peak MB", "bytes/token")
    yield _row("ids to a model", heads) + "  n-grams by order"
    points = [(f"order {each['order']}", each) for each in found["orders"]]
    points += [(f"order {each['order']}, growing", each) for each in found["growth"]]
    if "out_of_core" in found:
        each = found["out_of_core"]
        points.append(
            (f"{'through files' if each['on_disk'] else 'fits'} in {each['memory_bytes'] / MB:,.0f} MB", each)
        )
    points.append(("an empty process", {"peak_bytes": found["baseline_bytes"]}))
    points += [("id text to ARPA", found["id_text_to_arpa"]), ("lmplz, the same", found["lmplz"])]
    for name, each in points:
        if each:
            grams = " ".join(map(short, each.get("ngrams", ())))
            yield f"{_row(name, _cells(each))}  {grams}".rstrip()
    if found["lmplz"] and found["id_text_to_arpa"]:
        ours, theirs = found["id_text_to_arpa"], found["lmplz"]
        names = (("CPU", "cpu_seconds"), ("wall", "seconds"), ("peak memory", "peak_bytes"))
        yield "lmplz / ours, id text to ARPA: " + ", ".join(f"{theirs[n] / ours[n]:.2f} x {said}" for said, n in names)
    model, kenlm = asked["model"], asked["kenlm"]
    yield ""
    yield (
        f"order {model['order']} on {model['tokens']:,} tokens, {sum(model['ngrams']):,} n-grams: counted in "
        f"{model['seconds']:.1f} s, index {model['index_seconds']:.1f} s, sampler {model['sampler_seconds']:.1f} s"
    )
    for name, rate in asked["rates"].items():
        yield f"  {name.replace('_', ' '):<32}{rate:>14,.0f} {'distributions' if 'distr' in name else 'tokens'}/s"
    if kenlm:
        yield f"  {'KenLM full_scores, in Python':<32}{kenlm['full_scores_tokens_per_second']:>14,.0f} tokens/s"
        yield f"  score 1 thread / full_scores{kenlm['times_full_scores']:>18.2f} x"
        yield f"  KenLM's perplexity / ours{kenlm['perplexity_ratio']:>21.7f}"
    yield ""
    stored = asked["storage"]
    columns = f"{'bytes':>16}{'bytes/n-gram':>14}{'save s':>9}{'load s':>9}{'perplexity':>13}{'bits/byte':>11}"
    yield f"{'on disk':<12}{columns}"
    for name in ("plain", "quantised"):
        each = stored[name]
        yield (
            f"{name:<12}{each['bytes']:>16,}{each['bytes_per_ngram']:>14.2f}{each['save_seconds']:>9.2f}"
            f"{each['load_seconds']:>9.2f}{each['perplexity']:>13.4f}{each['bits_per_byte']:>11.4f}"
        )
    yield f"quantised / plain perplexity {stored['perplexity_ratio']:.5f}, made in {stored['quantise_seconds']:.1f} s"


def _row(name: str, cells: tuple[str, ...]) -> str:
    widths = (13, 9, 9, 12, 14, 9, 13)
    return f"{name:<24}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _cells(each: dict[str, Any]) -> tuple[str, ...]:
    peak = f"{each['peak_bytes'] / MB:,.0f}"
    if "tokens" not in each:
        return ("", "", "", "", "", peak, "")
    return (
        f"{each['tokens']:,}",
        f"{each['seconds']:.2f}",
        f"{each['cpu_seconds']:.2f}",
        f"{each['tokens_per_second']:,.0f}",
        f"{each['cpu_us_per_token']:.3f}",
        peak,
        f"{each['bytes_per_token']:,.1f}",
    )


if __name__ == "__main__":
    main()
