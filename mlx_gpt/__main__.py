"""The table of stages, and every door as a command of one group: python -m mlx_gpt, or mlx-gpt."""

from __future__ import annotations

import click

from mlx_gpt import (
    __version__,
    across,
    arpa,
    compare,
    compress,
    count,
    decompress,
    distill,
    download,
    evaluate,
    generate,
    ladder,
    merge,
    quantize,
    report,
    skills,
    train,
)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlx-gpt")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Eleven language models, from unigram counts to a GPT tuned for Apple's M2.

    Without a command: the table of stages and what each trained run scores. Shell completion:
    eval "$(_MLX_GPT_COMPLETE=zsh_source mlx-gpt)" (bash_source, fish_source).
    """
    if ctx.invoked_subcommand is None:
        show_stages()


def show_stages() -> None:
    """Every stage, what it remembers, and the score of its default run under runs/."""
    from mlx_gpt import stages
    from mlx_gpt.checkpoint import MODEL, RUNS, read_card
    from mlx_gpt.errors import CheckpointError

    click.secho(f"{'':>2}  {'stage':<16}{'remembers':<52}{'bits/byte':>9}  trained on", bold=True)
    for number in stages.numbers():
        stage = stages.stage(number)
        bits, source = "-", ""
        if (RUNS / stage.run / MODEL).is_file():
            try:
                card = read_card(RUNS / stage.run)
                bits = "unfinished"
                if card.finished:  # an imported model was never scored
                    bits = f"{card.scores['bits_per_byte']:.4f}" if card.scores else "-"
                source = str(card.source)
            except CheckpointError:
                bits = "damaged"
        click.echo(f"{number:>2}  {stage.name:<16}{stage.remembers:<52}{bits:>9}  {source}")
    click.echo("\npython -m mlx_gpt.train --stage N trains one; --stage N --help lists its settings.")


DOORS = (
    train,
    generate,
    evaluate,
    compare,
    skills,
    report,
    across,
    count,
    merge,
    quantize,
    distill,
    compress,
    decompress,
    download,
    arpa,
)
for door in DOORS:
    main.add_command(door.main, door.__name__.rpartition(".")[2])
main.add_command(ladder.main, "train-all")


if __name__ == "__main__":
    main()
