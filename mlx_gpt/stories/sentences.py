"""The sentences of a story, as `notation.py` reads them, in the order in which `plot.py` tells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from mlx_gpt.stories.lexicon import LEXICONS
from mlx_gpt.stories.notation import Notation

TAGS: Final[dict[str, str]] = {
    "fixed": "nothing to choose: remember the phrase that has begun",
    "frame": "the sentence so far: how a sentence goes on",
    "event": "the story so far: what kind of thing happens next",
    "word": "a word or two: a word from an open list",
    "newname": "who has been named: a child not heard of before",
    "selection": "the word it goes with: who does what to whom, which thing has which colour",
    "tense": "whether the story is told in the past or the present",
    "agreement": "one or many, in the subject and not in the noun that stands nearer",
    "pronoun": "whether the one it stands for is a girl or a boy",
    "name": "the children of this story: which of them is meant",
    "theme": "where the story takes place, told once at the beginning",
    "belongs": "which things there are, their colours, and who has them now",
    "holder": "who has a thing now, after all that changed hands",
    "copy": "the words of the aim, from the beginning of the story",
    "return": "the spot at which the story began",
}

NAMES = ("hero", "friend", "third")
THINGS = ("toy", "gear", "tool")
_ANYBODY = ("heroes", "friends", "thirds")
_ANYTHING = ("toys", "gears", "tools")
NOTATION = Notation(
    LEXICONS,
    {
        "hero": ("heroes",),
        "friend": ("friends",),
        "third": ("thirds",),
        "who": _ANYBODY,
        "other": _ANYBODY,
        "toy": ("toys",),
        "gear": ("gears",),
        "tool": ("tools",),
        "thing": _ANYTHING,
        "theme": ("themes",),
        "home": ("spots",),
        "helper": ("helpers",),
        "k1": ("numbers",),
        "k2": ("fruits",),
        "secret": ("secrets",),
        "goal": ("things",),
        "s1": ("syllables",),
        "s2": ("syllables",),
        "s3": ("syllables",),
        "quality": ("qualities",),
        "treasure": ("treasures",),
        "animal": ("creatures",),
        "keeper": _ANYBODY,
        "keeper0": _ANYBODY,
        "keeper1": _ANYBODY,
        "keeper2": _ANYBODY,
    },
    {
        **dict.fromkeys(("she", "She", "her", "Her", "obj"), "pronoun"),
        **dict.fromkeys(("was", "is", "had", "has"), "agreement"),
    },
)

OPENINGS = (
    "(Once upon a time|One( fine| lovely| strange|) {+hours} last {+seasons}|Long ago|Many years ago|"
    "On a {+weathers} {+seasons} {+hours}|In a {+weathers} {+seasons} long ago)",
    "(Today|This {+hours}|It is a {+weathers} {+hours}, and|Every {+seasons}|These days)",
)
_PLAYED = "([played|plays]|[lived|lives]|[sat|sits]|[waited|waits]|[dreamed|dreams]|[worked|works])"
_NEAR = "(near|beside|behind|below|above)"
SETTINGS = (
    " {theme=themes}, {+traits.a} {+kinds} (called|named) {hero=heroes} "
    + _PLAYED
    + " "
    + _NEAR
    + " the {+looks} {home=spots/theme}.",
    " {theme=themes}, there [was|is] {+looks.a} {home=spots/theme}. {hero=heroes}, {+traits.a} {+kinds}, "
    + _PLAYED
    + " there( with {+pets} the {+traits} {+petkinds}| all {+seasons}| and [liked|likes] {+hobbies}).",
    " {theme=themes}, {hero=heroes} [was|is] {+ways} {+hobbies} " + _NEAR + " the {+looks} {home=spots/theme}.",
)
CIRCLES = (
    " {hero.Her} (best|dearest|only|oldest|new) friend [was|is] {+traits} {friend=friends}.",
    " {hero.Her} (best|dearest|only|oldest|new) friends [were|are] {+traits} {friend=friends} and {+traits} "
    "{third=thirds}.",
)
_HAS = "([had|has]|[carried|carries]|[owned|owns]|[loved|loves]|[brought|brings]|[wanted|wants] to show)"
BELONGINGS = (
    " {hero} "
    + _HAS
    + " {hue=colours.a} {toy=toys/hue}(, and|, while|, but) {friend} "
    + _HAS
    + " {shade=colours.a} {gear=gears/shade}.",
    '\n"Look, {hue=colours.a} {toy=toys/hue}!" {hero} [said|says] {+ways}. "(But|And|Well,) I have '
    '{shade=colours.a} {gear=gears/shade}," {friend} ([said|says]|[answered|answers]|[replied|replies]).',
)
THIRD_BELONGING = " {third} " + _HAS + " {tint=colours.a} {tool=tools/tint}."


@final
@dataclass(frozen=True)
class Aim:
    """What a story is about: how it is set, recalled on the way, and fulfilled word for word."""

    set: str
    recalled: str
    fulfilled: str


AIMS = (
    Aim(
        '\n"I will bring {helper=helpers/theme} {k1=numbers} {k2=fruits}," {hero} '
        "([said|says]|[promised|promises]) "
        "{+ways}.",
        "( {hero.Her} promise [was|is] not forgotten: {k1} {k2} for {helper}."
        "| But what about the promise? {k1.cap} {k2}!)",
        ', {hero} [kept|keeps] {hero.her} promise {+ways}. "I will bring {helper} {k1} {k2}," {hero.she} '
        "[had|has] "
        "said, and (now|so|sure enough) {helper} [made|makes] {+tastes} {+foods} for {+pets}.",
    ),
    Aim(
        '\n"The secret word is {secret=secrets}," {helper=helpers/theme} ([told|tells]|[taught|teaches]) '
        "{hero} "
        "{+ways}.",
        " (The secret word [was|is] still {secret}.|Nobody else [knew|knows] about {secret}.)",
        ", {hero} [said|says] {hero.her} word, {secret}, and (the door|a gate|the box|a wall) "
        "[opened|opens]. Inside "
        "[was|is] {quality=qualities.a} {+treasures/quality} with {+tastes} {+foods}.",
    ),
    Aim(
        '\n{hero} [made|makes] up {+looks.a} (song|tune|rhyme): "{s1=syllables.cap} {s2=syllables} '
        "{s3=syllables}, "
        '{s1} {s2} {s3}!"',
        '( Somebody| {hero}| The wind) [sang|sings] {+ways}: "{s1.cap} {s2} {s3}!"',
        ', they all [sang|sing] {+ways}: "{s1.cap} {s2} {s3}, {s1} {s2} {s3}!" '
        "(Even the {+traits} {animal=creatures/theme} {animal.was} {+moods}|It [sounded|sounds] like "
        "{+looks.a} "
        "{+sounds}).",
    ),
    Aim(
        '\n"I wish I had {quality=qualities.a} {treasure=treasures/quality}," {hero} '
        "([said|says]|[sighed|sighs]) "
        "{+ways}.",
        "( If only there [were|was] {quality.a} {treasure}!| {hero.She} still [dreamed|dreams] {+ways} of "
        "{quality.a} "
        "{treasure}.)",
        ", the wish [came|comes] true. Behind the {+looks} {+things/theme} [stood|stands] {quality.a} "
        "{treasure}, "
        "(with {+moods} {+creatures/theme} around it|all {+looks} and "
        "{+looks}).",
    ),
    Aim(
        "\nThat {+hours}, {hero} [had|has] left {quality=qualities.a} {treasure=treasures/quality} "
        "(under|behind|beside|near) the {goal=things/theme}.",
        " (Nobody [had|has] seen the {quality} {treasure}.|They [missed|miss] the {quality} {treasure}.)",
        ", {hero} [remembered|remembers] the {goal}. There [was|is] the {quality} {treasure} with "
        "{+moods} {+creatures/theme} around it.",
    ),
    Aim(
        '\n"We must take {quality=qualities.a} {treasure=treasures/quality} to {helper=helpers/theme}," '
        "{friend} [told|tells] {hero} {+ways}.",
        " (The {quality} {treasure} [was|is] {+looks}.|How far [was|is] it to {helper}?)",
        ", they [gave|give] {helper} the {quality} {treasure}. "
        '"(How kind|Thank you|Well done|Just right|How thoughtful)!" {helper} [said|says] {+ways}.',
    ),
)

ROUND = (
    "(\nOne {+weathers} {+hours}, |\nThen |\nSoon |\nNear the {+looks} {+things/theme}, |\nNext, |\nLater, "
    "|\nThat {+hours}, |\nBeyond the {+looks} {+things/theme}, |\nBefore long, |\nAfter {+hobbies}, "
    "|\nBy the {+looks} {+things/theme}, |\nWhile the {+skies.did}, )"
)
GOES_ON = ((1, 0), (5, 2), (1, 2), (0, 1))  # odds of another round and of the end, by rounds so far
FINALE = "(\nAt last|\nIn the end|\nFinally|\nWhen the {+hours} [was|is] over)"
GIVE = " ([gave|gives]|[handed|hands]|[lent|lends]|[passed|passes]) the "
GIVEN = (
    "(, who [thanked|thanks] {who.obj} {+ways}|, and {other.she} [felt|feels] {+moods}"
    "| to try {+hobbies} {+ways}| to cheer up {+pets} the {+petkinds})."
)
KEEP = " ([played|plays] with|[held|holds] up|[looked|looks] after|[cleaned|cleans]|[dropped|drops]) {who.her} "
KEPT = (
    " (near|under|beside|inside|behind) the {+looks} {+things/theme}"
    "( and [felt|feels] {+moods}| before {+hobbies} {+ways}| for {+pets} the {+petkinds})."
)
MOVE = (
    " {move=moves.did} {+manners/move} (to|past|around|towards|behind|with {+pets} to) the {+looks} "
    "{+things/theme}"
    "( and the {+moods} {+creatures/theme}| for {+tastes} {+fruits}| to hear the {+looks} {+sounds}"
    "| with {+tastes} {+foods})."
)
FEEL = (
    " ([felt|feels]|[was|is]|[seemed|seems]) {+moods}, (so|and) {who.she} "
    "([ate|eats] {+tastes} {+foods} with {+fruits}|[went|goes] {+hobbies} with {+pets}|[asked|asks] for "
    "{+tastes} {+foods}|[played|plays] {+games} {+ways})."
)
BACKGROUND = (
    "( (Nearby|Close by|Far away|By the {+looks} {+things/theme}), the {+traits} {animal=creatures/theme}"
    "( that {deed=deeds.did/animal} the {+moods} {+patients/deed}( near the {+looks} {+things/theme}|) "
    "{animal.was} {+moods}| {deed=deeds.did/animal} the {+moods} {+patients/deed} {+ways})."
    "| Their (friend|guest|cousin|neighbour|visitor) {+pets} the {+moods} {+petkinds} {+ways} "
    "([brought|brings]|[stole|steals]|[ate|eats]|[found|finds]|[dropped|drops]) "
    "{+tastes} {+foods} and {+fruits}."
    "| The {+skies.did} {+ways} over the {+looks} {+things/theme}"
    "( and the {+moods} {+creatures/theme}| and the {+spots/theme})."
    '| "I (like|love|want|smell|need|made) {+tastes} {+foods} and {+fruits}," {friend} [said|says]'
    "( to {hero}| {+ways}|, and {hero} [nodded|nods] {+ways}|, but {hero} [felt|feels] {+moods})."
    '| "What is that {+looks} {+sounds}?" {hero} [asked|asks]. '
    '"(It is only|Maybe it is|I can see|I hope it is|Oh,) the {+moods} {+creatures/theme}!"'
    "| It [was|is] (a {+weathers}, {+looks} {+hours}|too {+weathers} for {+hobbies} or {+games})"
    "(.|, and the {+traits} {animal=creatures/theme} {animal.was} {+moods}.))"
)
ASK = (" Where [was|is] the ", ' "Who has the ')
ANSWER = (
    "? {keeper/thing:holder} [had|has] (it|the {thing.colour:belongs} one)(, and {keeper.she} [was|is] {+moods}"
    "| by the {+looks} {+things/theme}| for {+pets} the {+petkinds}).",
    '?" {other} [asked|asks]. "{keeper/thing:holder} has it!"',
)
CARRY = (
    " {keeper0/toy:holder} ([took|takes]|[carried|carries]) the {toy.full}, {keeper1/gear:holder} the {gear.full}.",
    " {keeper0/toy:holder} ([took|takes]|[carried|carries]) the {toy.full}, {keeper1/gear:holder} the {gear.full}, "
    "{keeper2/tool:holder} the {tool.full}.",
)
RETURN = (
    "\n(Together they|Then they all|The children) ([went|go] back|[walked|walk] "
    "home|[returned|return]|[hurried|hurry] home) {+ways} to the {+looks} {home}."
)
CLOSE = (
    "( It [had been|has been] a {+weathers}, {+looks} {+seasons} {+hours}| {hero} [was|is] {+moods} and "
    "[slept|sleeps] {+ways}"
    "| They all [ate|eat] {+tastes} {+foods} and {+fruits}| Nobody [was|is] {+moods} or {+moods} any more)."
)
