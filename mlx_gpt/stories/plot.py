"""The grammar: what happens in a story and how it is told. `scene` is all of it, for all walks through it.

A story opens (tense, theme, home, two or three children, what each of them has), sets an aim (a promise, a
secret word, a song, a wish, a lost thing or an errand), goes through one to three rounds in which things
change hands, and ends where it began, with the aim fulfilled in the very words in which it was set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, final

from mlx_gpt.stories.notation import V, Walk
from mlx_gpt.stories.sentences import (
    AIMS,
    ANSWER,
    ASK,
    BACKGROUND,
    BELONGINGS,
    CARRY,
    CIRCLES,
    CLOSE,
    FEEL,
    FINALE,
    GIVE,
    GIVEN,
    GOES_ON,
    KEEP,
    KEPT,
    MOVE,
    NAMES,
    NOTATION,
    OPENINGS,
    RETURN,
    ROUND,
    SETTINGS,
    THINGS,
    THIRD_BELONGING,
)


@final
@dataclass(frozen=True)
class Story(Generic[V]):
    """All that the rest of a story depends on.

    tense    0 past, 1 present
    aim      position in AIMS
    cast     the words to be remembered, by name
    owner    who (position in NAMES) has each of the THINGS
    rounds   how many so far
    """

    tense: int
    aim: int
    cast: tuple[tuple[str, V], ...]
    owner: tuple[int, ...]
    rounds: int


def scene(walk: Walk[V], story: Story[V] | None) -> Story[V] | None:
    """The next scene: what the story is after it, None if it is over."""
    if story is None:
        return _opening(walk)
    cast = dict(story.cast)
    if walk.fork(NOTATION.fork((ROUND, FINALE), story.tense, GOES_ON[story.rounds]), cast):
        _ending(walk, story)
        return None
    owner = walk.call(_exchange, replace(story, aim=0, rounds=0, cast=_settled(story)))
    story = replace(story, owner=owner, rounds=story.rounds + 1)
    _interlude(walk, story)
    return story


def _settled(story: Story[V]) -> tuple[tuple[str, V], ...]:
    """The words without those of the aim."""
    return tuple((name, word) for name, word in story.cast if name in (*NAMES, *THINGS, "theme"))


def _opening(walk: Walk[V]) -> Story[V]:
    cast: dict[str, V] = {}
    tense = walk.fork(NOTATION.fork(OPENINGS, 0, (3, 2)), cast)
    walk.fork(NOTATION.fork(SETTINGS, tense, (3, 2, 2)), cast)
    three = walk.fork(NOTATION.fork(CIRCLES, tense, (2, 1)), cast)
    walk.fork(NOTATION.fork(BELONGINGS, tense, (2, 1)), cast)
    if three:
        walk.play(NOTATION.sentence(THIRD_BELONGING, tense), cast)
    aim = walk.fork(NOTATION.fork(tuple(aim.set for aim in AIMS), tense, (1,) * len(AIMS)), cast)
    return Story(tense, aim, tuple(sorted(cast.items())), (0, 1, 2)[: 2 + three], 0)


def _exchange(walk: Walk[V], story: Story[V]) -> tuple[int, ...]:
    """One child does something, perhaps give something away: who has what afterwards."""
    cast = dict(story.cast)
    children = [cast[name] for name in NAMES[: len(story.owner)]]
    who = walk.which(children, (4, 3, 3)[: len(children)], "", "name")
    cast["who"] = children[who]
    own = [index for index, owner in enumerate(story.owner) if owner == who]
    weights = (4, 3, 3, 3) if own else (0, 0, 1, 1)
    kind = walk.fork(NOTATION.fork((GIVE, KEEP, MOVE, FEEL), story.tense, weights), cast)
    if kind > 1:
        return story.owner
    thing = own[walk.which([cast[THINGS[index]] for index in own], (1,) * len(own), "full", "belongs")]
    if kind == 1:
        walk.play(NOTATION.sentence(KEPT, story.tense), cast)
        return story.owner
    walk.say(" to ", "fixed")
    others = [index for index in range(len(children)) if index != who]
    to = others[walk.which([children[index] for index in others], (1,) * len(others), "", "name")]
    cast["other"] = children[to]
    walk.play(NOTATION.sentence(GIVEN, story.tense), cast)
    return (*story.owner[:thing], to, *story.owner[thing + 1 :])


def _interlude(walk: Walk[V], story: Story[V]) -> None:
    """Something to be seen, a question who has what, or the aim again."""
    cast = dict(story.cast)
    texts = BACKGROUND, *ASK, AIMS[story.aim].recalled
    kind = walk.fork(NOTATION.fork(texts, story.tense, (12, 2, 2, 3)), cast)
    if kind in (1, 2):
        walk.call(_question, (kind, replace(story, aim=0, rounds=0, cast=_settled(story))))


def _question(walk: Walk[V], asked: tuple[int, Story[V]]) -> None:
    """Which thing is asked for, and the answer."""
    kind, story = asked
    cast = dict(story.cast)
    things = [cast[name] for name in THINGS[: len(story.owner)]]
    thing = walk.which(things, (1,) * len(things), "", "belongs")
    keeper = story.owner[thing]
    cast |= {"thing": things[thing], "keeper": cast[NAMES[keeper]], "other": cast[NAMES[0 if keeper else 1]]}
    walk.play(NOTATION.sentence(ANSWER[kind - 1], story.tense), cast)


def _ending(walk: Walk[V], story: Story[V]) -> None:
    cast = dict(story.cast)
    cast |= {f"keeper{index}": cast[NAMES[owner]] for index, owner in enumerate(story.owner)}
    walk.play(NOTATION.sentence(AIMS[story.aim].fulfilled, story.tense), cast)
    if walk.fork(NOTATION.fork((RETURN, CARRY[len(story.owner) - 2]), story.tense, (2, 3)), cast):
        walk.play(NOTATION.sentence(RETURN, story.tense), cast)
    walk.play(NOTATION.sentence(CLOSE, story.tense), cast)
