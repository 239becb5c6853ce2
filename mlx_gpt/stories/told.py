"""Where in a story a word was said before, so that a choice can tell how far back lies what decides it."""

from __future__ import annotations

from mlx_gpt.stories.words import Word

NAMELESS = ("pronoun", "agreement")  # tags of forms that do not say which word they stand for


class Told:
    """The words of a story so far, and `size`, its bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._said: dict[Word, list[tuple[int, str]]] = {}
        self._held: dict[Word, int] = {}  # where it was last told who has a thing

    def back(self, word: Word, text: str = "") -> int | None:
        """Bytes back to where a word last stood in a form that holds this text, or in any, if in none."""
        places = self._said.get(word, [])
        bare = text.casefold().removeprefix("an ").removeprefix("a ")
        held = [place for place, said in places if bare in said] or [place for place, _ in places]
        return self.size - held[-1] if held else None

    def holder(self, thing: Word) -> int | None:
        """Bytes back to where it was last told who has a thing."""
        return self.size - self._held[thing] if thing in self._held else None

    def choose(self, word: Word) -> None:
        """A new word comes next, with all that belongs to it: a thing has its colour and somebody who has it."""
        self._said.setdefault(word, []).append((self.size, " ".join(word.forms.values()).casefold()))
        self._held[word] = self.size

    def say(self, word: Word, form: str, tag: str) -> None:
        """A word is said again next. A thing's bare form only asks for it; with its colour, somebody has it."""
        if tag not in NAMELESS:
            self._said.setdefault(word, []).append((self.size, word.forms[form].casefold()))
        if form:
            self._held[word] = self.size

    def answer(self, thing: Word) -> None:
        """Who has a thing comes next."""
        self._held[thing] = self.size
