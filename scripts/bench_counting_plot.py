"""The picture of what bench_counting.py found: speed and memory over size, CPU by order, questions."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

BLUE, GREEN, SAND, RED, GREY = "#2b6ca3", "#4f9d8b", "#d9a441", "#c0392b", "#6b7079"
KINDS = {"score": BLUE, "distributions": GREEN, "generate": SAND, "sample": SAND}


def draw(found: dict[str, Any], picture: Path) -> bool:
    """Four panels; False where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(13, 9), layout="constrained")
    rows: Any = figure.subfigures(2, 1)  # apart, for the names of the last panel are long
    top, bottom = rows
    _growth(found, *top.subplots(1, 2))
    cost, answers = bottom.subplots(1, 2)
    _costs(found, cost)
    _answers(found["queries"], answers)
    for panel in (*top.axes, cost, answers):
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_axisbelow(True)
        panel.grid(axis="x" if panel is answers else "y", alpha=0.25)
    machine, text = found["machine"], found["text"]
    figure.suptitle(
        f"Counting n-grams: {text['source']}, {text['tokenizer']} vocabulary of {text['vocab_size']:,}\n"
        f"{machine['description']}, {machine['cpus']} CPUs, NumPy {machine['numpy']}, {found['date'][:10]}",
        fontsize=10,
        color=GREY,
    )
    figure.savefig(picture, dpi=144)
    pyplot.close(figure)
    return True


def _growth(found: dict[str, Any], speed: Any, memory: Any) -> None:
    """Tokens a second and peak memory over the size of the text."""
    grown, apart, order = found["growth"], found.get("out_of_core"), found["queries"]["model"]["order"]
    size = [each["tokens"] / 1e6 for each in grown]
    rates = [each["tokens_per_second"] / 1e6 for each in grown]
    peaks = [each["peak_bytes"] / 2**20 for each in grown]
    speed.plot(size, rates, "o-", color=BLUE, label="in memory")
    memory.plot(size, peaks, "o-", color=BLUE, label="in memory")
    for x, rate, peak, each in zip(size, rates, peaks, grown, strict=True):
        _say(speed, f"{rate:.2f}", x, rate, (0, 8), BLUE)
        place, side = ((-10, 3), "right") if each is grown[-1] else ((8, -13), "left")  # beside the line
        _say(memory, f"{each['bytes_per_token']:,.0f} B/token", x, peak, place, BLUE, side)
    if apart:
        at, rate, peak = apart["tokens"] / 1e6, apart["tokens_per_second"] / 1e6, apart["peak_bytes"] / 2**20
        limit = f"{'through files, ' if apart['on_disk'] else ''}--memory {apart['memory_bytes'] / 2**20:,.0f}M"
        speed.plot([at], [rate], "D", color=RED, label=limit)
        memory.plot([at], [peak], "D", color=RED, label=limit)
        _say(speed, f"{rate:.2f}", at, rate, (0, -16), RED)
        _say(memory, f"{peak:,.0f} MB", at, peak, (0, -16), RED)
    memory.axhline(found["baseline_bytes"] / 2**20, color=GREY, linewidth=1, linestyle=":", label="an empty process")
    for panel, highest in ((speed, max(rates)), (memory, max(peaks))):
        panel.set_xticks(size, [f"{each:.3g}" for each in size])
        panel.set(xlabel="size of the text, million tokens", xlim=(0, size[-1] * 1.08), ylim=(0, highest * 1.3))
        panel.legend(frameon=False, fontsize=9, loc="upper left", ncols=3)
    speed.set_ylabel("million tokens/s")
    memory.set_ylabel("MB")
    _title(speed, f"Training, order {order}: ids to a model")
    _title(memory, f"Peak memory of the whole process, order {order}")


def _costs(found: dict[str, Any], panel: Any) -> None:
    """CPU time a token by order, and of whole programs from text to ARPA."""
    order = found["queries"]["model"]["order"]
    bars = [(str(each["order"]), each, BLUE) for each in found["orders"]]
    programs = (("text to\nARPA", found["id_text_to_arpa"], SAND), ("lmplz", found["lmplz"], RED))
    bars += [(f"{name}, {order}", each, colour) for name, each, colour in programs if each]
    heights = [each["cpu_us_per_token"] for _, each, _ in bars]
    drawn = panel.bar([name for name, _, _ in bars], heights, color=[colour for *_, colour in bars], width=0.65)
    panel.bar_label(drawn, fmt="%.3g", padding=2, fontsize=9)
    panel.set(xlabel="order", ylabel="µs of CPU a token", ylim=(0, max(heights) * 1.12))
    _title(panel, f"CPU by order, {found['text']['size_1_tokens'] / 1e6:.3g} million tokens")


def _answers(asked: dict[str, Any], panel: Any) -> None:
    """Answers a second to each kind of question."""
    rates = {name.replace("_", " "): rate for name, rate in reversed(asked["rates"].items())}
    if asked["kenlm"]:
        rates = {"KenLM full_scores, in Python": asked["kenlm"]["full_scores_tokens_per_second"], **rates}
    drawn = panel.barh(list(rates), list(rates.values()), color=[_colour(name) for name in rates], height=0.7)
    panel.bar_label(drawn, labels=[short(rate) for rate in rates.values()], padding=3, fontsize=9)
    low = 10.0 ** (math.floor(math.log10(min(rates.values()))) - 1)
    panel.set(xscale="log", xlim=(low, 5 * max(rates.values())))
    panel.set_xlabel("tokens or distributions a second (logarithmic)")
    _title(panel, f"Questions to order {asked['model']['order']}, {short(sum(asked['model']['ngrams']))} n-grams")


def _title(panel: Any, text: str) -> None:
    panel.set_title(text, fontsize=12, loc="left", weight="bold")


def _say(panel: Any, text: str, x: float, y: float, offset: tuple[int, int], colour: str, side: str = "center") -> None:
    panel.annotate(text, (x, y), offset, textcoords="offset points", ha=side, fontsize=9, color=colour)


def _colour(name: str) -> str:
    """One for each kind of question, another for KenLM."""
    return KINDS.get(name.split()[0], RED)


def short(number: float) -> str:
    """Three digits or so: 812, 8.0k, 1.25M."""
    if number < 1_000:
        return f"{number:.0f}"
    thousands = f"{number / 1e3:.1f}k" if number < 1e5 else f"{number / 1e3:.0f}k"
    return thousands if number < 1e6 else f"{number / 1e6:.2f}M"
