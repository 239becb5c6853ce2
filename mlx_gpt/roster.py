"""Which runs a table shows: those of one text in a folder, or those that are named; and why others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_gpt.checkpoint import LAST, MODEL, Card, Checkpoint, load, read_card, runs
from mlx_gpt.errors import CheckpointError, SettingError
from mlx_gpt.folder import LOG


@dataclass(frozen=True)
class Roster:
    """The runs to be shown, by their folders, and by name why others are left out."""

    folder: Path  # which all of them, or the first, stand in
    cards: dict[Path, Card]
    left_out: dict[str, str]

    def loaded(self, order: Iterable[Path], show: Callable[[int, Path], None]) -> Iterator[tuple[Path, Checkpoint]]:
        """The runs one after the other, `show` told before each; why one is left out goes into `left_out`.

        Raises CheckpointError in the end where none could be read.
        """
        found = False
        for number, run in enumerate(order, 1):
            show(number, run)
            try:
                trained = load(run)
            except CheckpointError as error:
                self.left_out[run.name] = reason(run, error)
                continue
            found = True
            yield run, trained
        if not found:
            raise CheckpointError(f"{self.folder}: no run can be read; {'; '.join(self.left_out.values())}")


def roster(named: Sequence[Path], data: Sequence[str] = (), any_text: bool = False) -> Roster:
    """What `--runs` names: one folder of runs, or runs. They are to be scored on `data`, or on a text of their own.

    Of a folder with runs of several texts of their own those of one are taken: of the text that most runs have, and
    of two such texts that of the newest run. With `any_text` a text plays no part.

    Raises CheckpointError where there are no runs, SettingError where those that are named have several texts of
    their own, or two of them one name, or where `data` is standard input.
    """
    if "-" in data:
        raise SettingError("--data -: standard input can be read only once; name a file")
    first, one_text = named[0], not data and not any_text
    if are_runs(named):
        found = _named(named)
        folder = first.parent
    else:
        found, folder = runs(first), first
    cards, left_out = dict[Path, Card](), dict[str, str]()
    for run in found:
        try:
            cards[run] = read_card(run)
        except CheckpointError as error:
            left_out[run.name] = reason(run, error)
    if not are_runs(named):
        begun = {path.parent for name in (LOG, LAST) for path in folder.glob(f"*/{name}")}
        left_out |= {each.name: "no model yet" for each in sorted(begun) if not (each / MODEL).is_file()}
    if not cards:
        what = "no trained runs here" if folder.exists() else "no such folder"
        said = "".join(f"; {name}: {why}" for name, why in left_out.items())
        raise CheckpointError(f"{folder}: {what}{said}; python -m mlx_gpt.train --stage 1, or scripts/train_all.py")
    corpora = {card.text: str(card.source) for card in cards.values()}
    if len(corpora) > 1 and one_text:
        if are_runs(named):
            raise SettingError(
                f"--runs: trained on {len(corpora)} corpora or splits ({', '.join(corpora.values())}); "
                "name runs of one of them, or one text for all with --data FILE"
            )
        cards, others = _of_one_text(cards)
        left_out = others | left_out
    return Roster(folder, cards, left_out)


def are_runs(named: Sequence[Path]) -> bool:
    """Whether these are runs, not a folder of runs."""
    return len(named) > 1 or (named[0] / MODEL).is_file()


def _named(named: Sequence[Path]) -> list[Path]:
    found = list(dict.fromkeys(named))
    for run in found:
        if not (run / MODEL).is_file():
            what = "no trained model here" if run.exists() else "no such folder"
            raise CheckpointError(f"--runs {run}: {what}; name one folder of runs, or runs")
    name, count = Counter(run.name for run in found).most_common(1)[0]
    if count > 1:
        raise SettingError(f"--runs: {count} runs called {name}; rename one, for a table tells runs by their names")
    return found


def _of_one_text(cards: dict[Path, Card]) -> tuple[dict[Path, Card], dict[str, str]]:
    """The runs of the text that most of them have, of equals the newest run's; and why the others are left out."""
    counts, newest = Counter(card.text for card in cards.values()), dict[str, float]()
    for run, card in cards.items():
        newest[card.text] = max(newest.get(card.text, 0.0), (run / MODEL).stat().st_mtime)
    chosen = max(counts, key=lambda text: (counts[text], newest[text]))
    taken = {run: card for run, card in cards.items() if card.text == chosen}
    shown, left_out = called(next(iter(taken.values())).source.paths), dict[str, str]()
    for run, card in cards.items():
        if run not in taken:
            theirs = called(card.source.paths)
            what = (
                f"{theirs}, not on {shown}"
                if theirs != shown
                else f"another text called {shown}, or another split of it"
            )
            left_out[run.name] = f"trained on {what}; to see such runs, name them: --runs DIR..."
    return taken, left_out


def called(paths: Sequence[str]) -> str:
    """A text by the names of its files, without the folders they are in, for pages that are passed on."""
    return " ".join(Path(path).name for path in paths) or "built-in stories"


def reason(run: Path, error: CheckpointError) -> str:
    """Why a run is left out, without the folder it is in."""
    return str(error).replace(f"{run.parent}/", "")


def gaps(left_out: dict[str, str]) -> list[str]:
    """What was left out, in words: the runs of one reason together."""
    named: dict[str, list[str]] = {}
    for name, why in left_out.items():
        named.setdefault(why, []).append(name)
    return [f"left out: {', '.join(names)} ({why})" for why, names in named.items()]
