"""Measure the recurrent scans beside autodiff: python scripts/bench_scan.py, for ratios of time and memory."""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import click

from mlx_gpt.device import description, pick_device  # before MLX, so that it finds the tuned BLAS
from mlx_gpt.door import Door

# isort: split
import mlx.core as mx
import mlx.nn as nn

from mlx_gpt.descent.scan import lstm_scan, rnn_scan

MB = 2**20
WARM = 2  # first rounds, not counted: kernels are made and buffers found
Loss = Callable[..., mx.array]


@click.command(cls=Door)
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Sequences, B.")
@click.option("--length", type=click.IntRange(1), default=64, show_default=True, help="Tokens of each, T.")
@click.option("--width", type=click.IntRange(1), default=128, show_default=True, help="Of input and state, D.")
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True, help="Each runs all by turns.")
@click.option("--no-compiled", is_flag=True, help="Eager ones only: on a CPU the first compilation takes a minute.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(batch: int, length: int, width: int, rounds: int, no_compiled: bool, as_json: bool) -> None:
    """Forward and backward of one recurrent layer, input product included: mlx.nn.LSTM and a plain RNN loop under
    autodiff, and ours, eager and compiled.

    Ratios are of neighbours in one round, so that a busy machine spoils them little; memory is MLX's peak during a
    step beyond what was there before. Autodiff gets its batch first and ours time first, as each likes best.
    """
    pick_device()
    told: dict[str, Any] = {
        "device": description(),
        "batch": batch,
        "length": length,
        "width": width,
        "rounds": rounds,
        "lstm": _raced(_lstms(batch, length, width), rounds, not no_compiled),
        "rnn": _raced(_rnns(batch, length, width), rounds, not no_compiled),
    }
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    click.echo(f"{told['device']}: B = {batch}, T = {length}, D = {width}, {rounds} rounds")
    for kind in ("lstm", "rnn"):
        click.echo(f"\n{kind:<20}{'least ms':>10}{'median':>10}{'MB':>10}{'worst':>10}")
        for name, each in told[kind]["runs"].items():
            cells = (each["seconds"][0] * 1e3, each["seconds"][1] * 1e3, *(size / MB for size in each["bytes"]))
            click.echo(f"  {name:<18}" + "".join(f"{cell:10.1f}" for cell in cells))
        for name, each in told[kind]["ratios"].items():
            click.echo(
                f"  {name}: {each['least']:.2f} x the speed by the least, {each['median']:.2f} by the median round "
                f"({each['rounds'][0]:.2f}-{each['rounds'][1]:.2f}); {each['bytes']:.1f} x less memory"
            )


def _lstms(batch: int, length: int, width: int) -> dict[str, tuple[Loss, list[mx.array]]]:
    """The two contenders, each with what it is differentiated by: input weights, recurrent weights, bias, x."""
    layer, (x, weights, zeros) = nn.LSTM(width, width), _random(batch, length, width)

    def autodiff(wide: mx.array, recurrent: mx.array, bias: mx.array, x: mx.array) -> mx.array:
        layer.Wx, layer.Wh, layer.bias = wide, recurrent, bias
        return (layer(x, zeros, zeros)[0] * weights).sum()

    turned = mx.contiguous(weights.swapaxes(0, 1))

    def ours(wide: mx.array, recurrent: mx.array, bias: mx.array, x: mx.array) -> mx.array:
        every, *_ = lstm_scan(mx.addmm(bias, x, wide.T), recurrent, zeros, zeros)
        return (every * turned).sum()

    given = [layer.Wx, layer.Wh, layer.bias]
    return {"mlx.nn.LSTM": (autodiff, [*given, x]), "lstm_scan": (ours, [*given, mx.contiguous(x.swapaxes(0, 1))])}


def _rnns(batch: int, length: int, width: int) -> dict[str, tuple[Loss, list[mx.array]]]:
    layer, (x, weights, zeros) = nn.RNN(width, width), _random(batch, length, width)

    def autodiff(wide: mx.array, recurrent: mx.array, bias: mx.array, x: mx.array) -> mx.array:
        inputs, h, seen = mx.addmm(bias, x, wide.T), zeros, []
        for t in range(length):
            h = mx.tanh(mx.addmm(inputs[:, t], h, recurrent.T))
            seen.append(h)
        return (mx.stack(seen, axis=1) * weights).sum()

    turned = mx.contiguous(weights.swapaxes(0, 1))

    def ours(wide: mx.array, recurrent: mx.array, bias: mx.array, x: mx.array) -> mx.array:
        every, _ = rnn_scan(mx.addmm(bias, x, wide.T), recurrent, zeros)
        return (every * turned).sum()

    given = [layer.Wxh, layer.Whh, layer.bias]
    return {"a plain loop": (autodiff, [*given, x]), "rnn_scan": (ours, [*given, mx.contiguous(x.swapaxes(0, 1))])}


def _random(batch: int, length: int, width: int) -> tuple[mx.array, mx.array, mx.array]:
    x, weights = (mx.random.normal((batch, length, width), key=mx.random.key(n)) for n in range(2))
    return x, weights, mx.zeros((batch, width))


def _raced(contenders: dict[str, tuple[Loss, list[mx.array]]], rounds: int, compiled: bool) -> dict[str, Any]:
    """Seconds and bytes of each, and of each pair that is compared the ratios."""
    steps = dict[str, Callable[[], Any]]()
    for name, (loss, given) in contenders.items():
        mx.eval(given)
        step: Any = mx.value_and_grad(loss, argnums=list(range(len(given))))
        forms = {"eager": step} | ({"compiled": mx.compile(step)} if compiled else {})
        steps |= {f"{name}, {form}": functools.partial(s, *given) for form, s in forms.items()}
    seconds, sizes = {name: list[float]() for name in steps}, {name: list[int]() for name in steps}
    for turn in range(WARM + rounds):
        for name, run in steps.items():
            mx.reset_peak_memory()
            before, started = mx.get_active_memory(), time.perf_counter()
            mx.eval(run())
            if turn >= WARM:
                seconds[name].append(time.perf_counter() - started)
                sizes[name].append(mx.get_peak_memory() - before)
    ratios = dict[str, Any]()
    for ours in [name for name in steps if name.startswith(list(contenders)[1])]:
        for theirs in [name for name in steps if name.startswith(next(iter(contenders)))]:
            each = [a / b for a, b in zip(seconds[theirs], seconds[ours], strict=True)]
            ratios[f"{ours} beside {theirs}"] = {
                "least": min(seconds[theirs]) / min(seconds[ours]),
                "median": statistics.median(each),
                "rounds": [min(each), max(each)],
                "bytes": statistics.median(sizes[theirs]) / statistics.median(sizes[ours]),
            }
    runs = {
        name: {
            "seconds": [min(seconds[name]), statistics.median(seconds[name])],
            "bytes": [statistics.median(sizes[name]), max(sizes[name])],
        }
        for name in steps
    }
    return {"runs": runs, "ratios": ratios}


if __name__ == "__main__":
    main()
