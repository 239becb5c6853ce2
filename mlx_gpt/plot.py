"""The picture of a run: bits per byte of training and validation text over the steps."""

from __future__ import annotations

import json
from pathlib import Path


def draw_curve(log: Path, picture: Path, title: str) -> bool:
    """Draw a run's log as a PNG; returns False where matplotlib is missing or there is no curve to draw."""
    try:
        import matplotlib
    except ImportError:
        return False
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    train = [(line["step"], line["bits_per_byte"]) for line in lines if line.get("loss") is not None]
    valid = [
        (line["step"], line["valid_bits_per_byte"])
        for line in lines
        if "step" in line and "valid_bits_per_byte" in line
    ]
    if len(train) < 2:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(*zip(*train, strict=True), color="#9db8d2", linewidth=1, label="training batches")
    axes.plot(*zip(*valid, strict=True), color="#c0392b", marker="o", markersize=3, label="validation text")
    axes.set(xlabel="step", ylabel="bits per byte", title=title)
    low = min(bits for _, bits in train + valid)
    axes.set_ylim(low * 0.95, min(8.0, max(bits for _, bits in train + valid)) * 1.02)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=144)
    pyplot.close(figure)
    return True
