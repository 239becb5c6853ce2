"""Measure the counting stages: python scripts/bench_counting.py --data TEXT, for a table, a JSON file and a plot."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from mlx_gpt.door import Door
from mlx_gpt.tokenizer import KINDS

VERSION = 1  # of the JSON
HERE = Path(__file__).resolve()


@dataclasses.dataclass(frozen=True)
class Job:
    """One thing to measure, in a process of its own; see bench_counting_tasks.perform."""

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
    help="Share of the tokens drawn anew in each repetition, so that new n-grams come as the text grows.",
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
        from bench_counting_tasks import perform

        job = json.loads(one)
        click.echo(json.dumps(perform(Job(**{**job, "data": tuple(job["data"])}))))
        return
    from mlx_gpt.errors import SettingError
    from mlx_gpt.recipe import size_in_bytes
    from mlx_gpt.train import absolute

    growth, heights = _numbers(sizes, "--sizes", 1_000), _numbers(orders, "--orders", 10)
    size_in_bytes(memory)
    if not out.parent.is_dir() or out.is_dir():
        raise SettingError(f"--out {out}: cannot be written; name a file in a folder that exists")
    if quick:
        growth, heights, tokens, vocab_size = growth[:2], heights[:2], min(tokens, 20_000), min(vocab_size, 512)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        job = Job(
            "prepare", absolute(data), tokenizer, vocab_size, folder, tokens, max(growth), noise,
            str(Path(folder) / "ids.txt"), order, memory, quick,
        )  # fmt: skip
        told = _run(job)
        size = told["text"]["size_1_tokens"]
        job = dataclasses.replace(job, eot=told["eot"], vocab_size=told["text"]["vocab_size"], tokens=size)
        baseline = _run(dataclasses.replace(job, task="nothing"))["peak_bytes"]
        found: dict[str, Any] = {
            "version": VERSION,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": told["machine"],
            "text": told["text"],
            "baseline_bytes": baseline,
            "growth": [_run(dataclasses.replace(job, task="count", tokens=size * each)) for each in growth],
            "orders": [_run(dataclasses.replace(job, task="count", order=each)) for each in heights],
        }
        if memory:
            largest = dataclasses.replace(job, task="shards", tokens=size * max(growth))
            found["out_of_core"] = {"memory_bytes": size_in_bytes(memory), **_run(largest)}
        found["queries"] = _run(dataclasses.replace(job, task="ask"))
        found["id_text_to_arpa"] = _arpa(job)
        found["lmplz"] = _lmplz(job)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    click.echo("\n".join(table(found)))
    drawn = draw(found, out.with_suffix(".png"))
    click.echo(f"\n{out}" + (f", {out.with_suffix('.png')}" if drawn else ""))
    if not drawn:
        click.secho("no plot: pip install 'mlx-gpt[plots]' draws one", err=True, dim=True)


def _numbers(text: str, name: str, most: int) -> list[int]:
    from mlx_gpt.errors import SettingError

    words = text.split(",")
    if not all(word.strip().isdecimal() and 1 <= int(word) <= most for word in words):
        raise SettingError(f"{name} {text}: expected whole numbers from 1 to {most}, with commas between")
    return sorted({int(word) for word in words})


def _run(job: Job) -> dict[str, Any]:
    """A job's figures, from a process of its own."""
    from mlx_gpt.errors import TrainingError

    click.secho(f"{job.task}: order {job.order}, {job.tokens:,} tokens", err=True, dim=True)
    command = [sys.executable, str(HERE), "--one", json.dumps(dataclasses.asdict(job))]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["no message"]
        raise TrainingError(f"{job.task}: {lines[-1].removeprefix('Error: ')}")
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def _process(command: list[str], tokens: int) -> dict[str, Any]:
    """Wall and CPU seconds of a whole process, and microseconds of CPU a token."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = time.perf_counter() - started
    return {"tokens": tokens, "seconds": seconds, "cpu_seconds": cpu, "cpu_us_per_token": cpu / tokens * 1e6}


def _arpa(job: Job) -> dict[str, Any]:
    """Decimal ids to ARPA, a whole process from file to file."""
    click.secho("id text to ARPA", err=True, dim=True)
    out = str(Path(job.folder) / "out.arpa")
    command = [sys.executable, "-m", "mlx_gpt.arpa", "build", job.ids, "--order", str(job.order), "-o", out]
    return _process(command, job.tokens)


def _lmplz(job: Job) -> dict[str, Any]:
    """KenLM's own trainer on the same text, where it is on PATH."""
    binary = shutil.which("lmplz")
    if binary is None:
        click.secho("lmplz is not on PATH, so it is not compared with", err=True, dim=True)
        return {}
    click.secho("lmplz", err=True, dim=True)
    files = ["--text", job.ids, "--arpa", str(Path(job.folder) / "lmplz.arpa"), "-T", job.folder]
    return _process([binary, "-o", str(job.order), "-S", "2G", "--discount_fallback", *files], job.tokens)


def table(found: dict[str, Any]) -> list[str]:
    """The figures as lines of text."""
    machine, text = found["machine"], found["text"]
    lines = [
        f"{machine['description']}, {machine['cpus']} CPUs, NumPy {machine['numpy']}, {found['date']}",
        f"{text['source']}: {text['vocab_size']:,} {text['tokenizer']} tokens",
        "",
        f"{'training':<26}{'tokens':>13}{'M tokens/s':>12}{'CPU us/token':>14}{'peak MB':>9}{'bytes/token':>13}",
    ]
    points = [(f"order {each['order']}", each) for each in found["orders"]]
    points += [(f"order {each['order']}, growing", each) for each in found["growth"]]
    if "out_of_core" in found:
        each = found["out_of_core"]
        points.append((f"out of core in {each['memory_bytes'] / 2**20:,.0f} MB", each))
    for name, each in points:
        lines.append(
            f"{name:<26}{each['tokens']:>13,}{each['tokens'] / each['seconds'] / 1e6:>12.2f}"
            f"{each['cpu_seconds'] / each['tokens'] * 1e6:>14.3f}{each['peak_bytes'] / 2**20:>9,.0f}"
            f"{each['peak_bytes'] / each['tokens']:>13.1f}"
        )
    lines += [f"{'an empty process':<26}{'':>39}{found['baseline_bytes'] / 2**20:>9,.0f}", ""]
    for name, each in (("id text to ARPA", found["id_text_to_arpa"]), ("lmplz", found["lmplz"])):
        if each:
            lines.append(f"{name:<34}{each['cpu_us_per_token']:>14.3f} us CPU/token, {each['seconds']:.1f} s")
    asked = found["queries"]
    lines.append(
        f"{'answers a second, order ' + str(asked['model']['order']):<34}{'':>14} {_millions(asked['model']['tokens'])}"
    )
    lines += [f"  {name.replace('_', ' '):<32}{rate:>14,.0f}" for name, rate in asked["rates"].items()]
    for name in ("plain", "quantised"):
        each = asked["storage"][name]
        lines.append(
            f"{name + ' on disk':<34}{each['bytes_per_ngram']:>14.2f} bytes/n-gram, perplexity {each['perplexity']:.3f}"
        )
    if asked["kenlm"]:
        lines.append(f"{'times kenlm full_scores':<34}{asked['kenlm']['times_full_scores']:>14.2f}")
        lines.append(f"{'kenlm perplexity / ours':<34}{asked['kenlm']['perplexity_ratio']:>14.7f}")
    return lines


def _millions(tokens: int) -> str:
    return f"(a model of {tokens / 1e6:.1f} M tokens)"


def draw(found: dict[str, Any], picture: Path) -> bool:
    """Four panels; False where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    blue, red, grey = "#2b6ca3", "#c0392b", "#8a8f98"
    figure, panels = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    grown = found["growth"]
    size = [each["tokens"] / 1e6 for each in grown]
    panel = panels[0, 0]
    panel.plot(size, [each["tokens"] / each["seconds"] / 1e6 for each in grown], "o-", color=blue)
    panel.set(title=f"Training, order {grown[0]['order']}", xlabel="million tokens", ylabel="million tokens/s", ylim=0)
    panel = panels[0, 1]
    panel.plot(size, [each["peak_bytes"] / 2**20 for each in grown], "o-", color=blue, label="in memory")
    if "out_of_core" in found:
        each = found["out_of_core"]
        panel.plot([each["tokens"] / 1e6], [each["peak_bytes"] / 2**20], "s", color=red, label="through files")
        panel.axhline(each["memory_bytes"] / 2**20, color=red, linewidth=0.8, linestyle=":", label="--memory")
    panel.axhline(found["baseline_bytes"] / 2**20, color=grey, linewidth=0.8, linestyle=":", label="an empty process")
    panel.set(title="Peak memory of the process", xlabel="million tokens", ylabel="MB", ylim=0)
    panel.legend(frameon=False)
    panel = panels[1, 0]
    cost = [each["cpu_seconds"] / each["tokens"] * 1e6 for each in found["orders"]]
    bars = panel.bar([str(each["order"]) for each in found["orders"]], cost, color=blue, width=0.6)
    panel.bar_label(bars, fmt="%.2f", padding=2)
    panel.set(
        title=f"CPU by order, {found['orders'][0]['tokens'] / 1e6:.1f} M tokens", xlabel="order", ylabel="us a token"
    )
    panel = panels[1, 1]
    rates = dict(reversed(found["queries"]["rates"].items()))
    bars = panel.barh([name.replace("_", " ") for name in rates], list(rates.values()), color=blue)
    panel.bar_label(bars, labels=[f"{rate:,.0f}" for rate in rates.values()], padding=3, fontsize=8)
    panel.set(title="Answers a second", xscale="log", xlim=(100, 10 * max(rates.values())))
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="both" if panel is panels[0, 0] or panel is panels[0, 1] else "x", alpha=0.2)
    figure.suptitle(f"{found['machine']['description']}, {found['date'][:10]}", fontsize=10, color=grey)
    figure.savefig(picture, dpi=144)
    pyplot.close(figure)
    return True


if __name__ == "__main__":
    main()
