"""Count n-grams of a text, or a shard of it, into a file: python -m mlx_gpt.count -o part.counts"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_gpt.door import Door, notice
from mlx_gpt.tokenizer import KINDS, LARGEST_VOCABULARY


@click.command(cls=Door)
@click.option("--data", multiple=True, metavar="PATH...", help="Files or folders; the built-in stories without it.")
@click.option("--tokenizer", type=click.Choice(KINDS), default="bpe", show_default=True, help="What a token is.")
@click.option(
    "--vocab-size",
    type=click.IntRange(259, LARGEST_VOCABULARY),
    default=2_048,
    show_default=True,
    help="Entries of a BPE vocabulary.",
)
@click.option(
    "--split-seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of the split."
)
@click.option(
    "--like",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Count the whole of --data with the tokenizer of this run: a part of a text that is on another machine.",
)
@click.option("--order", type=click.IntRange(1, 10), default=5, show_default=True, help="The longest n-grams.")
@click.option("--shard", default="1/1", show_default=True, help="Which part of the text, such as 3/8.")
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="The file of counts to write.")
def main(
    data: tuple[str, ...],
    tokenizer: str,
    vocab_size: int,
    split_seed: int,
    like: Path | None,
    order: int,
    shard: str,
    out: Path,
) -> None:
    """Count the n-grams of the training text, or of one shard of it, into a file.

    Shards are counted apart, by several processes or machines, and added up without loss:

    \b
    python -m mlx_gpt.count --data huge/ --shard 1/2 -o 1.counts
    python -m mlx_gpt.count --data huge/ --shard 2/2 -o 2.counts
    python -m mlx_gpt.merge 1.counts 2.counts -o whole.counts
    python -m mlx_gpt.train --stage 4 --data huge/ --counted whole.counts

    gives the model of one run, to the bit. With --like RUN the text need not be where the run's was.
    """
    from mlx_gpt.checkpoint import read_tokenizer, run_folder
    from mlx_gpt.corpus import Source, absolute_paths, documents, encode_text, files, named_paths, open_corpus
    from mlx_gpt.counting.merge import count_shard
    from mlx_gpt.counting.record import text_digest, write_counts
    from mlx_gpt.errors import DataError, SettingError

    number, shards = _shard(shard)
    if like is not None and any(_given(name) for name in ("tokenizer", "vocab_size", "split_seed")):
        raise SettingError("--like: the run says what a token is; leave out --tokenizer, --vocab-size and --split-seed")
    if like is None:
        corpus = open_corpus(Source(absolute_paths(data), tokenizer, vocab_size, split_seed), notice)
        words, ids = corpus.tokenizer, corpus.train.ids
    else:
        if not data:
            raise DataError("--like: needs --data, the text to count")
        words = read_tokenizer(run_folder(None, like))
        with named_paths(data) as paths:
            text = encode_text(documents(files(paths)), words)
        ids = text.ids
        if not len(text):
            raise DataError(f"{' '.join(data)}: no text to count")
    begin, stop = (len(ids) * part // shards for part in (number - 1, number))
    counts = count_shard(ids, order, words.vocab_size, words.eot, begin, stop)
    write_counts(out, counts, words, [(text_digest(ids), begin, stop, len(ids))])
    rows = sum(len(each.tokens) for each in counts.orders[1:])
    click.echo(f"{out}: {counts.tokens:,} tokens, {rows:,} n-grams of orders 2 to {order}" if order > 1 else str(out))


def _given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE


def _shard(text: str) -> tuple[int, int]:
    from mlx_gpt.errors import SettingError

    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= 100_000):
        raise SettingError(f"--shard {text}: expected one of a number of shards, such as 3/8")
    return int(number), int(of)


if __name__ == "__main__":
    main()
