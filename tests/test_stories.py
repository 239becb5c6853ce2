"""The built-in corpus: one grammar, three ways through it, all of them exact."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Generic, final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gpt import stories
from mlx_gpt.errors import DataError
from mlx_gpt.stories import TAGS
from mlx_gpt.stories.belief import expectation
from mlx_gpt.stories.lexicon import CREATURES, keyed, listed, plain
from mlx_gpt.stories.notation import LOOKAHEAD, Argument, Either, Notation, Result, V, Walk
from mlx_gpt.stories.plot import scene
from mlx_gpt.stories.walks import Span, Telling, read, sample
from mlx_gpt.stories.words import Lexicon, Odds, Spelling, Table, Word

CROWD = 10_000


@pytest.fixture(scope="module")
def crowd() -> list[list[Span]]:
    """Many sampled stories with the choices that were drawn."""
    return [sample(scene, f"story {index} of series 2") for index in range(CROWD)]


def text_of(spans: list[Span]) -> str:
    return "".join(span.text for span in spans)


def nats_of(spans: list[Span]) -> float:
    return math.fsum(span.nats for span in spans)


# ------------------------------------------------------------------ exactness


def test_reading_a_story_finds_the_very_choices_that_were_drawn(crowd: list[list[Span]]) -> None:
    for spans in crowd[:300]:
        assert stories.spans(text_of(spans)) == spans  # so the text determines its derivation
        assert stories.nats(text_of(spans)) == pytest.approx(nats_of(spans), abs=1e-9)


def test_entropy_agrees_with_the_mean_of_many_samples(crowd: list[list[Span]]) -> None:
    exact = stories.entropy()
    for mean, drawn in (
        (exact.nats_per_story, [nats_of(spans) for spans in crowd]),
        (exact.bytes_per_story, [len(text_of(spans).encode()) for spans in crowd]),
    ):
        # 3.29 standard errors on either side hold 99.9 % of a normal distribution
        assert abs(statistics.fmean(drawn) - mean) < 3.29 * statistics.stdev(drawn) / math.sqrt(CROWD)


@dataclass(frozen=True)
class Tiny(Generic[V]):
    """State of the miniature: its words and how often the loop went round."""

    cast: tuple[tuple[str, V], ...]
    turns: int


_PET = listed(map(plain, ("cat", "cats", "ox")), "word", "name", 1.0)
_SOUND = keyed(
    {
        pet: Table(tuple(map(plain, sounds)), Odds(weights))
        for pet, sounds, weights in zip(
            _PET.table(None).words,
            (("purr", "hiss"), ("purr", "yell"), ("moo", "low")),
            ((1, 3), (2, 5), (7, 1)),
            strict=True,
        )
    },
    "selection",
    "copy",
)
TINY = Notation(
    {"pets": _PET, "sounds": _SOUND, "others": listed(map(plain, ("hen", "emu")), "word", "name")},
    {"pet": ("pets",), "other": ("others",), "sound": ("sounds",)},
    {},
)


def tiny_scene(walk: Walk[V], state: Tiny[V] | None) -> Tiny[V] | None:
    """A grammar small enough to list: every kind of choice that the large one makes."""
    if state is None:
        cast: dict[str, V] = {}
        start = "The {pet=pets}( and| or( even|)) the {other=others} {sound=sounds/pet}."
        walk.play(TINY.sentence(start, 0), cast)
        return Tiny(tuple(sorted(cast.items())), 0)
    cast = dict(state.cast)
    if walk.fork(TINY.fork((" Again", " End( of {+sounds/pet}|, {sound})."), 0, (2, 1 + state.turns)), cast):
        return None
    if walk.call(_tiny_part, state.cast) == 0 and state.turns == 1:
        walk.say("!", "fixed")
    return Tiny(state.cast, state.turns + 1) if state.turns < 2 else None


def _tiny_part(walk: Walk[V], cast: tuple[tuple[str, V], ...]) -> int:
    words = dict(cast)
    walk.say(" ", "fixed")
    chosen = walk.which([words["pet"], words["other"]], (3, 1), "", "name")
    walk.play(TINY.sentence(" ([went|goes]|[came|comes]).", 1), words)
    return chosen


class Listing(Telling):
    """Decisions from a script; the alternatives not taken are kept for another go."""

    def __init__(self, script: list[int]) -> None:
        super().__init__()
        self.script, self.taken, self.untried = script, list[int](), list[list[int]]()

    def _next(self, odds: Odds) -> int:
        depth = len(self.taken)
        if depth == len(self.script):
            self.untried += [[*self.script, index] for index in range(1, len(odds.weights))]
            self.script = [*self.script, 0]
        self.taken.append(self.script[depth])
        return self.script[depth]

    def decide(self, options: Either) -> int:
        return self._next(options.odds)

    def name(self, spelling: Spelling, chances: Odds) -> int:
        return self._next(chances)

    def write(self, text: str) -> None:
        pass


def all_tiny_stories() -> dict[str, float]:
    """Text -> nats of every story of the miniature."""
    found: dict[str, float] = {}
    scripts: list[list[int]] = [[]]
    while scripts:
        walk = Listing(scripts.pop())
        state = tiny_scene(walk, None)
        while state is not None:
            state = tiny_scene(walk, state)
        scripts += walk.untried
        text = "".join(span[0] for span in walk.spans)
        assert text not in found, f"two derivations of {text!r}"
        found[text] = math.fsum(span[2] for span in walk.spans)
    return found


def test_a_miniature_grammar_is_summed_up_exactly() -> None:
    found = all_tiny_stories()
    assert len(found) > 1000
    chances = {text: math.exp(-nats) for text, nats in found.items()}
    assert math.fsum(chances.values()) == pytest.approx(1, abs=1e-12)
    nats = math.fsum(p * found[text] for text, p in chances.items())
    size = math.fsum(p * len(text) for text, p in chances.items())
    exact = expectation(tiny_scene)
    assert exact.nats_per_story == pytest.approx(nats, rel=1e-12)
    assert exact.bytes_per_story == pytest.approx(size, rel=1e-12)


def test_every_story_of_the_miniature_is_read_at_its_price() -> None:
    for text, nats in list(all_tiny_stories().items())[::7]:
        assert nats_of(read(tiny_scene, text)) == pytest.approx(nats, abs=1e-12)


def test_alternatives_that_begin_alike_are_refused() -> None:
    with pytest.raises(AssertionError, match="begin alike"):
        TINY.sentence("A( very|)( very|) big {+others}.", 0)
    with pytest.raises(AssertionError, match="fixed text"):
        TINY.sentence("A ({+others}|{+pets}).", 0)
    with pytest.raises(AssertionError, match="told apart"):
        Spelling(("ice", "ice-cream"))


# ------------------------------------------------------------------ seeds


def test_same_seed_same_stories_whatever_their_number() -> None:
    assert list(stories.stories(5, 20)) == list(stories.stories(5, 30))[:20]
    assert stories.story(5, 17) == list(stories.stories(5, 20))[17]


def test_different_seeds_and_indices_differ() -> None:
    texts = {stories.story(seed, index) for seed in range(20) for index in range(20)}
    assert len(texts) == 400


# ------------------------------------------------------------------ what is no story


def test_a_word_that_does_not_exist_is_refused(crowd: list[list[Span]]) -> None:
    for number, spans in enumerate(crowd[:200]):
        text = text_of(spans)
        words = list(re.finditer(r"[A-Za-z]+", text))
        word = words[number % len(words)]
        with pytest.raises(DataError, match=r"byte \d+ expected"):
            stories.nats(text[: word.start()] + "qx" + text[word.end() :])


REMEMBERED = ("agreement", "pronoun", "holder", "copy", "return", "tense")


@pytest.mark.parametrize("tag", REMEMBERED)
def test_what_has_to_be_remembered_cannot_be_something_else(crowd: list[list[Span]], tag: str) -> None:
    free = [span for spans in crowd[:200] for span in spans if span.tag == tag and not span.nats]
    others = sorted({span.text for span in free})
    tried = 0
    for spans in crowd[:100]:
        places = [index for index, span in enumerate(spans) if span.tag == tag and not span.nats]
        for place in places[:2]:
            for other in [text for text in others if text != spans[place].text][:6]:
                start = len(text_of(spans[:place]))
                with pytest.raises(DataError, match=r"byte \d+ expected") as caught:
                    stories.nats(text_of(spans[:place]) + other + text_of(spans[place + 1 :]))
                found = int(re.findall(r"byte (\d+)", str(caught.value))[0])
                assert start - LOOKAHEAD <= found <= start + len(other)  # an alternative looks ahead
                tried += 1
    assert tried > 20


def test_a_longer_or_shorter_text_is_refused() -> None:
    text = stories.story(0, 0)
    for wrong in ("", text + "\n", text + text, text[:-1], text[1:], " " + text, text.upper(), "é" + text):
        with pytest.raises(DataError):
            stories.nats(wrong)


@given(st.text(max_size=200))
def test_any_other_text_is_refused_in_good_order(text: str) -> None:
    with pytest.raises(DataError):
        stories.nats(text)


# ------------------------------------------------------------------ what stories are like


def test_every_tag_is_explained_and_occurs(crowd: list[list[Span]]) -> None:
    assert {span.tag for spans in crowd[:300] for span in spans} == set(TAGS)


def test_fixed_and_remembered_text_is_free_and_choices_are_not(crowd: list[list[Span]]) -> None:
    for span in (span for spans in crowd[:200] for span in spans):
        assert span.text and span.nats >= 0
        if span.tag in ("fixed", *REMEMBERED):
            assert span.nats == 0
        if span.tag in ("word", "newname", "theme", "frame"):
            assert span.nats > 0


def test_chosen_words_end_where_no_letter_follows(crowd: list[list[Span]]) -> None:
    for spans in crowd[:300]:
        for span, after in pairwise(spans):
            assert not (span.text[-1].isalpha() and after.text[0].isalpha()), (span, after)


def test_stories_are_clean_english_text(crowd: list[list[Span]]) -> None:
    for text in map(text_of, crowd[:2000]):
        assert text.isascii() and text == text.strip() and "<|endoftext|>" not in text
        assert re.fullmatch(r'([A-Z"][^\n]*[.!"?]\n)+[A-Z][^\n]*\.', text), text
        assert text.count('"') % 2 == 0
        assert not re.search(r"  | [.,!?]|\.\.|\ba [aeiou]|\ban [^aeiouh]|[{}\[\]()|+=]", text), text


def test_an_aim_set_at_the_beginning_comes_back_in_every_story(crowd: list[list[Span]]) -> None:
    for spans in crowd[:500]:
        assert any(span.tag == "copy" for span in spans)
        assert any(span.tag == "return" for span in spans[-20:])


def test_who_is_said_to_have_a_thing_was_given_it_last(crowd: list[list[Span]]) -> None:
    # kept apart from the grammar's own bookkeeping: gifts and answers are read off the text
    given_away = answered_after_gift = 0
    for spans in crowd[:2000]:
        children = [span.text for span in spans if span.tag == "newname"]
        things = [span.text for span in spans if span.tag == "selection"][: len(children)]
        owner = dict(zip(things, children, strict=True))
        first = dict(owner)
        thing = "|".join(map(re.escape, things))
        events = (
            rf"(?:gave|gives|handed|hands|lent|lends|passed|passes) the \w+ (?P<gift>{thing}) to (?P<to>\w+)"
            rf'|(?:Where (?:was|is)|"Who has) the (?P<asked>{thing})\?.*?(?P<has>\w+) (?:had|has) '
        )
        for event in re.finditer(events, text_of(spans)):
            if event["gift"]:
                owner[event["gift"]] = event["to"]
                given_away += 1
            else:
                assert event["has"] == owner[event["asked"]], text_of(spans)
                answered_after_gift += owner[event["asked"]] != first[event["asked"]]
    assert given_away > 500 and answered_after_gift > 50


def test_the_verb_agrees_with_its_subject_across_the_clause(crowd: list[list[Span]]) -> None:
    several = {creature.forms[""]: many for creature, (_, many) in CREATURES.items()}
    clauses = attracted = 0
    for text in map(text_of, crowd):
        clause = r"the \w+ (\w+) that \w+ the \w+ (\w+)(?: near the \w+ \w+)? (was|were|is|are) "
        for subject, nearer, verb in re.findall(clause, text):
            assert several[subject] == (verb in ("were", "are")), text
            clauses += 1
            attracted += several[subject] != several[nearer]
    assert clauses > 500 and attracted > 200


def test_size_and_words_of_the_corpus(crowd: list[list[Span]]) -> None:
    texts = [text_of(spans) for spans in crowd]
    types = set(re.findall(r"[A-Za-z-]+", " ".join(texts)))
    exact = stories.entropy()
    # the bounds are the order for this corpus: rich enough for a GPT, small enough for a laptop
    assert 1000 < len(types) < 2500
    assert 500 < exact.bytes_per_story < 900
    assert 0.35 < exact.bits_per_byte < 0.6
    assert len(set(texts)) == CROWD


@final
class Longest(Walk[Lexicon]):
    """The most bytes along one path of forks: the longest spelling of every word, the longest alternative."""

    def __init__(self, path: tuple[int, ...]) -> None:
        self.path, self.depth, self.size = path, 0, 0
        self.untried: list[tuple[int, ...]] = []

    def say(self, text: str, tag: str) -> None:
        self.size += len(text.encode())

    def show(self, word: Lexicon, form: str, tag: str, given: Lexicon | None = None) -> None:
        self.size += widest(word, form)

    def choose(self, lexicon: Lexicon, given: Lexicon | None, form: str) -> Lexicon:
        self.show(lexicon, form, lexicon.tag)
        return lexicon

    def either(self, options: Either, cast: dict[str, Lexicon]) -> None:
        before, sizes = self.size, list[int]()
        for option in options.options:
            self.size = before
            self.play(option, dict(cast))
            sizes.append(self.size)
        self.size = max(sizes)

    def fork(self, options: Either, cast: dict[str, Lexicon]) -> int:
        index = self._follow(options.odds.weights)
        self.play(options.options[index], cast)
        return index

    def which(self, words: Sequence[Lexicon], weights: Sequence[int], form: str, tag: str) -> int:
        index = self._follow(weights)
        self.show(words[index], form, tag)
        return index

    def call(self, part: Callable[[Walk[Lexicon], Argument], Result], argument: Argument) -> Result:
        results: list[tuple[Result, int]] = list(longest(part, argument).items())
        result, size = results[self._follow([1] * len(results))]
        self.size += size
        return result

    def _follow(self, weights: Sequence[int]) -> int:
        if self.depth == len(self.path):
            possible = [index for index, weight in enumerate(weights) if weight]
            self.untried += [(*self.path, index) for index in possible[1:]]
            self.path = (*self.path, possible[0])
        self.depth += 1
        return self.path[self.depth - 1]


@cache
def widest(lexicon: Lexicon, form: str) -> int:
    """Bytes of a lexicon's longest word in one form."""
    return max(len(text.encode()) for text in lexicon.texts(form))


@cache
def longest(part: Callable[..., Any], argument: Hashable) -> dict[Any, int]:
    """What a part of the grammar may result in, and the most bytes it takes to get there."""
    sizes: dict[Any, int] = {}
    paths: list[tuple[int, ...]] = [()]
    while paths:
        walk = Longest(paths.pop())
        result = part(walk, argument)
        paths += walk.untried
        sizes[result] = max(sizes.get(result, 0), walk.size)
    return sizes


def test_no_story_can_be_longer_than_2000_bytes(crowd: list[list[Span]]) -> None:
    states: dict[Any, int] = {None: 0}
    bound = 0
    while states:
        after: dict[Any, int] = {}
        for state, size in states.items():
            for result, more in longest(scene, state).items():
                after[result] = max(after.get(result, 0), size + more)
        bound = max(bound, after.pop(None, 0))
        states = after
    assert max(len(text_of(spans)) for spans in crowd) <= bound <= 2000


def test_bits_per_byte_is_the_quotient_in_bits() -> None:
    # 8 ln 2 nats are 8 bits; over 4 bytes: 2
    assert stories.Entropy(8 * math.log(2), 4).bits_per_byte == pytest.approx(2)


def test_a_word_has_the_forms_of_its_kind() -> None:
    assert plain("apple").forms["a"] == "an apple"
    assert plain("hourglass").forms["a"] == "an hourglass"
    assert plain("honest").forms["a"] == "an honest"
    assert isinstance(plain("kite"), Word)


# ------------------------------------------------------------------ how far back


def test_what_decides_a_word_stands_where_the_story_says(crowd: list[list[Span]]) -> None:
    # apart from the grammar's bookkeeping: a name, a thing, a word of the aim stands there in the very letters
    found: set[str] = set()
    for spans in crowd[:300]:
        text, at = text_of(spans), 0
        for span in spans:
            if span.back is not None:
                assert 0 < span.back <= at
                there = text[at - span.back :].casefold()
                if span.tag in ("name", "copy", "return"):  # "a wooden" may be told by "the wooden"
                    word = span.text.casefold().removeprefix("an ").removeprefix("a ")
                    assert there.removeprefix("an ").removeprefix("a ").startswith(word), (span, there[:40])
                    between = text[at - span.back + len(word) + 3 : at].casefold()
                    assert span.tag != "name" or not re.search(rf"\b{word}\b", between), (span, between)
                if span.tag == "pronoun":  # a pronoun tells no name
                    assert not re.match(r"(she|her|he|his|him)\b", there), (span, there[:40])
                found.add(span.tag)
            else:
                assert span.tag not in REMEMBERED or span.tag == "tense"
            at += len(span.text)
    assert found >= {"name", "belongs", "theme", "selection", *REMEMBERED} - {"tense"}


def test_who_has_a_thing_was_last_told_so_far_back() -> None:
    text = stories.story(0, 3)
    asked = text.index("Eli had the spotted one")  # the question before it says nothing of who
    carried = text.index("Eli the spotted scarf")
    places = dict[int, Span]()
    for span in stories.spans(text):
        places[sum(len(each.text) for each in places.values())] = span
    assert asked - places[asked].back == text.index("scarf. Paula carried")
    assert carried - places[carried].back == text.index("spotted one, and")
    assert places[text.index("spotted one")].back == text.index("spotted one") - text.index("scarf. Paula carried")


def test_an_answer_tells_who_has_a_thing() -> None:
    pattern = r"Where was the (\w+)\? (\w+) had it((?!\1).)*\b(\2) (took|carried) the \w+ \1"
    text, match = next((text, found) for text in stories.stories(0, 4_000) if (found := re.search(pattern, text, re.S)))
    at = 0
    for span in stories.spans(text):
        if at == match.start(4):
            assert span.tag == "holder" and at - span.back == match.start(2)
        at += len(span.text)
