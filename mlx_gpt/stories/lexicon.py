"""The words of the stories, and which word goes with which.

Lists are in order of likelihood (Zipf). Affinities between words (who does what to whom) are low-rank:
softmax of dot products of fixed seeded vectors, so that word vectors can predict pairs never seen before.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from mlx_gpt.stories.vocabulary import (
    BOYS,
    COLOURS,
    DEEDS,
    FOODS,
    FRUITS,
    GAMES,
    GEARS,
    GIRLS,
    HOBBIES,
    HOURS,
    KINDS,
    LOOKS,
    MANNERS,
    MOODS,
    MOVES,
    NUMBERS,
    PET_KINDS,
    PETS,
    QUALITIES,
    SEASONS,
    SECRETS,
    SKIES,
    SOUNDS,
    SYLLABLES,
    TASTES,
    THEMES,
    TOOLS,
    TOYS,
    TRAITS,
    TREASURES,
    WEATHERS,
)
from mlx_gpt.stories.words import Lexicon, Odds, Table, Word, zipf

RANK = 4  # of the affinities
SHARPNESS = 0.8  # of their softmax
AT_HOME = 0.9  # share of a theme's own words where any theme's would do
SPOT_AT_HOME = 0.98  # the same for the spots where stories begin

IRREGULAR = {"mouse": "mice", "wolf": "wolves"}


def affine(columns: int, exponent: float, label: str) -> Callable[[str], Odds]:
    """Odds over `columns` words for any key: Zipf times a low-rank affinity; `label` seeds the vectors."""
    right = [_vector(f"{label} column {column}") for column in range(columns)]
    prior = zipf(columns, exponent).weights

    @cache
    def after(key: str) -> Odds:
        left = _vector(f"{label} row {key}")
        scores = [SHARPNESS * sum(a * b for a, b in zip(left, vector, strict=True)) for vector in right]
        return Odds(tuple(max(1, round(w * math.exp(s))) for w, s in zip(prior, scores, strict=True)))

    return after


def _vector(key: str) -> list[float]:
    """Roughly normal numbers (sums of three uniform ones), fixed by the key."""
    uniform = random.Random(key).random
    return [2 * (uniform() + uniform() + uniform() - 1.5) for _ in range(RANK)]


def with_article(text: str) -> str:
    """An indefinite article before a word."""
    vowel = text[0] in "aeiou" or text.startswith(("honest", "hour"))
    return f"an {text}" if vowel and not text.startswith("uni") else f"a {text}"


def with_s(word: str) -> str:
    """The plural of a noun, the third person of a verb."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") and word[-2] not in "aeiou" else word + "s"


def plain(text: str) -> Word:
    """A noun or adjective."""
    return Word({"": text, "a": with_article(text), "cap": text.capitalize()})


def person(name: str, girl: bool) -> Word:
    """A person with the pronouns."""
    she, her, obj = ("she", "her", "her") if girl else ("he", "his", "him")
    forms = {"": name, "she": she, "her": her, "obj": obj}
    return Word({**forms, "She": she.capitalize(), "Her": her.capitalize()})


def owned(colour: str, noun: str) -> Word:
    """A thing with its colour."""
    return Word({"": noun, "full": f"{colour} {noun}", "colour": colour})


def listed(words: Iterable[Word], tag: str, echo: str, exponent: float = 0.25) -> Lexicon:
    """A lexicon that depends on nothing."""
    found = tuple(words)
    table = Table(found, zipf(len(found), exponent))
    return Lexicon(tag, echo, lambda _: table)


def keyed(tables: dict[Word, Table], tag: str, echo: str) -> Lexicon:
    """A lexicon with one table for each given word."""
    return Lexicon(tag, echo, lambda given: tables[_sure(given)], tuple(tables))


def _sure(word: Word | None) -> Word:
    assert word is not None, "this lexicon needs a given word"
    return word


def _people(girls: Sequence[str], boys: Sequence[str]) -> Lexicon:
    pairs = zip(girls, boys, strict=True)
    people = [who for girl, boy in pairs for who in (person(girl, True), person(boy, False))]
    return listed(people, "newname", "name")


def _things(nouns: str, label: str) -> Lexicon:
    names = nouns.split()
    likely = affine(len(names), 0.3, label)
    tables = {
        colour: Table(tuple(owned(colour.forms[""], noun) for noun in names), likely(colour.forms[""]))
        for colour in COLOUR.table(None).words
    }
    return keyed(tables, "selection", "belongs")


def _themed(groups: dict[Word, list[Word]], echo: str, at_home: float = AT_HOME) -> Lexicon:
    """Any theme's words, the given theme's own with `at_home` of all probability."""
    everything = tuple(word for words in groups.values() for word in words)
    tables = {}
    for theme, own in groups.items():
        inside = zipf(len(own), 0.3).chances
        strange = (1 - at_home) / (len(everything) - len(own))
        chance = dict(zip(own, inside, strict=True))
        shares = [at_home * chance[word] if word in chance else strange for word in everything]
        tables[theme] = Table(everything, Odds(tuple(round(1_000_000 * share) for share in shares)))
    return keyed(tables, "theme", echo)


COLOUR = listed(map(plain, COLOURS.split()), "word", "belongs", 0.3)
THEME_WORDS: list[Word] = []
SPOT_GROUPS: dict[Word, list[Word]] = {}
THING_GROUPS: dict[Word, list[Word]] = {}
CREATURE_GROUPS: dict[Word, list[Word]] = {}
HELPER_GROUPS: dict[Word, list[Word]] = {}
CREATURES: dict[Word, tuple[str, bool]] = {}  # its name in the singular, and whether it is several
_LINES = THEMES.strip().splitlines()
for _first, _nouns, _animals, _folk in zip(*(_LINES[start::4] for start in range(4)), strict=True):
    _place, _, _spots = _first.partition(":")
    _theme = Word({"": _place})
    THEME_WORDS.append(_theme)
    SPOT_GROUPS[_theme] = [plain(name) for name in _spots.split()]
    THING_GROUPS[_theme] = [plain(name) for name in _nouns.split()]
    _pairs = [entry.split("+") for entry in _folk.split()]
    HELPER_GROUPS[_theme] = [person(f"the {name}", pronoun == "she") for name, pronoun in _pairs]
    CREATURE_GROUPS[_theme] = []
    for _name in _animals.split():
        for _many in (False, True):
            _animal = Word(
                {
                    "": with_s(_name) if _many else _name,
                    "was": "were" if _many else "was",
                    "is": "are" if _many else "is",
                    "had": "had",
                    "has": "have" if _many else "has",
                }
            )
            CREATURES[_animal] = (_name, _many)
            CREATURE_GROUPS[_theme].append(_animal)

_GIRLS, _BOYS = GIRLS.split(), BOYS.split()
_CREATURE_NAMES = tuple(dict.fromkeys(name for name, _ in CREATURES.values()))
_PATIENTS = tuple(CREATURES)
_DEED_PAIRS = [pair.split(":") for pair in DEEDS.split()]
_ACTS: dict[Word, tuple[str, str]] = {}  # a deed of one animal: the animal and the deed
_deed_odds = affine(len(_DEED_PAIRS), 0.3, "deed")
_patient_odds = affine(len(_CREATURE_NAMES), 0.0, "patient")


def _deeds() -> Lexicon:
    tables = {}
    for animal, (name, many) in CREATURES.items():
        verbs = []
        for past, now in _DEED_PAIRS:
            verbs.append(Word({"past": past, "now": now if many else with_s(now)}))
            _ACTS[verbs[-1]] = name, past
        tables[animal] = Table(tuple(verbs), _deed_odds(name))
    return keyed(tables, "selection", "selection")


def _patients(deed: Word | None) -> Table:
    """Who suffers it, as one or several alike."""
    name, act = _ACTS[_sure(deed)]
    pairs = zip(_patient_odds(name).chances, _patient_odds(act).chances, strict=True)
    return _patient_table(tuple(max(1, round(1_000_000 * math.sqrt(p * q))) for p, q in pairs))


@cache
def _patient_table(weights: tuple[int, ...]) -> Table:
    return Table(_PATIENTS, Odds(tuple(weight for weight in weights for _ in (False, True))))


def _moves() -> tuple[Lexicon, Lexicon]:
    pairs = [pair.split(":") for pair in MOVES.split()]
    verbs = tuple(Word({"past": past, "now": now}) for past, now in pairs)
    manners = tuple(map(plain, MANNERS.split()))
    likely = affine(len(manners), 0.3, "manner")
    tables = {verb: Table(manners, likely(verb.forms["past"])) for verb in verbs}
    return listed(verbs, "word", "word"), keyed(tables, "selection", "word")


def _treasures() -> tuple[Lexicon, Lexicon]:
    qualities = tuple(map(plain, QUALITIES.split()))
    nouns = tuple(map(plain, TREASURES.split()))
    likely = affine(len(nouns), 0.3, "treasure")
    tables = {quality: Table(nouns, likely(quality.forms[""])) for quality in qualities}
    return listed(qualities, "word", "copy"), keyed(tables, "selection", "copy")


def _sky(entry: str) -> Word:
    sky, past, now = entry.split(":")
    return Word({"past": f"{sky} {past}", "now": f"{sky} {now}"})


_MOVE, _MANNER = _moves()
_QUALITY, _TREASURE = _treasures()
_DEED = _deeds()
PLAIN = {
    "traits": TRAITS,
    "kinds": KINDS,
    "pets": PETS,
    "petkinds": PET_KINDS,
    "looks": LOOKS,
    "tastes": TASTES,
    "moods": MOODS,
    "foods": FOODS,
    "fruits": FRUITS,
    "numbers": NUMBERS,
    "secrets": SECRETS,
    "seasons": SEASONS,
    "hours": HOURS,
    "weathers": WEATHERS,
    "sounds": SOUNDS,
    "hobbies": HOBBIES,
    "games": GAMES,
}
LEXICONS: dict[str, Lexicon] = {
    "themes": listed(THEME_WORDS, "word", "theme", 0.2),
    "spots": _themed(SPOT_GROUPS, "return", SPOT_AT_HOME),
    "things": _themed(THING_GROUPS, "copy"),
    "creatures": _themed(CREATURE_GROUPS, "selection"),
    "helpers": _themed(HELPER_GROUPS, "copy"),
    "heroes": _people(_GIRLS[0::3], _BOYS[0::3]),
    "friends": _people(_GIRLS[1::3], _BOYS[1::3]),
    "thirds": _people(_GIRLS[2::3], _BOYS[2::3]),
    "colours": COLOUR,
    "toys": _things(TOYS, "toy"),
    "gears": _things(GEARS, "gear"),
    "tools": _things(TOOLS, "tool"),
    "deeds": _DEED,
    "patients": Lexicon("selection", "selection", _patients, tuple(_ACTS)),
    "moves": _MOVE,
    "manners": _MANNER,
    "qualities": _QUALITY,
    "treasures": _TREASURE,
    "ways": listed(map(plain, MANNERS.split()), "word", "word"),
    "skies": listed(map(_sky, SKIES.split()), "word", "word"),
    **{name: listed(map(plain, words.split()), "word", "copy") for name, words in PLAIN.items()},
    "syllables": listed(map(plain, SYLLABLES.split()), "word", "copy", 0.2),
}
