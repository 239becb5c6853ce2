"""One loop for all stages: cached = uncached, batched = single, chunked = whole, saved = live; and what may be shown."""

import copy
import itertools
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import decoding, stages
from mlx_gpt.corpus import Corpus
from mlx_gpt.decoding import Batch, Writer, generate, read, stream, streams
from mlx_gpt.descent import Neural
from mlx_gpt.errors import TokenizerError
from mlx_gpt.memory import Memory
from mlx_gpt.model import LanguageModel
from mlx_gpt.sampling import Taste
from mlx_gpt.tokenizer import Tokenizer
from tests.conftest import with_slow

every_stage = pytest.mark.parametrize("number", stages.numbers())
GREEDY = Taste(temperature=0)
CONTEXT = 32  # of the tiny presets


def prompts(corpus: Corpus, *lengths: int) -> list[list[int]]:
    """Texts of the corpus's end, from different places."""
    return [corpus.test.ids[50 * at : 50 * at + length].tolist() for at, length in enumerate(lengths)]


def differs(a: mx.array, b: mx.array) -> float:
    return float(mx.abs(a - b).max().item())


def uncached(model: LanguageModel, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy tokens, everything read again for each: after a full context, its last half and what was said since."""
    room, ids = model.memory().room, list(prompt)
    begin = 0
    for _ in range(count):
        if room is not None and len(ids) - begin > room:
            begin = len(ids) - (room - room // 2 + 1)
        ids.append(int(mx.argmax(model.logprobs(mx.array([ids[begin:]]))[0, -1]).item()))
    return ids[len(prompt) :]


def together(model: LanguageModel, given: Sequence[Sequence[int]], taste: Taste, count: int) -> list[list[int]]:
    """What a batch says after each prompt; text n has seed n."""
    batch = Batch(model, taste)
    found: list[list[int]] = [[] for _ in given]
    for seed, prompt in enumerate(given):
        batch.add(prompt, seed)
    for _ in range(count):
        for number, token in batch.step().items():
            found[number].append(token)
    return found


@pytest.mark.parametrize("number", with_slow(stages.numbers()))
@pytest.mark.parametrize("length", [1, 7, 31, 32, 33, 90])
def test_cached_tokens_are_uncached_tokens(number: int, length: int, rough, corpus: Corpus) -> None:
    [prompt] = prompts(corpus, length)
    found = list(itertools.islice(generate(rough(number), prompt, GREEDY, 0), 45))
    assert found == uncached(rough(number), prompt, 45)
    assert number == 1 or len(set(found)) > 1


@pytest.mark.parametrize("number", with_slow(stages.numbers()))
@pytest.mark.parametrize("taste", [GREEDY, Taste(temperature=1.0, top_k=50)], ids=["greedy", "sampled"])
def test_texts_of_a_batch_are_those_of_single_ones(number: int, taste: Taste, rough, corpus: Corpus) -> None:
    given = prompts(corpus, 3, 30, 1, 17, 50, 3)
    alone = [
        list(itertools.islice(generate(rough(number), prompt, taste, seed), 45)) for seed, prompt in enumerate(given)
    ]
    assert together(rough(number), given, taste, 45) == alone
    assert number == 1 or len(set(map(tuple, alone))) == len(given)


@every_stage
def test_texts_come_and_go_without_changing_the_others(number: int, rough, corpus: Corpus) -> None:
    given, taste = prompts(corpus, 5, 28, 12, 40), Taste(temperature=1.0)
    alone = [
        list(itertools.islice(generate(rough(number), prompt, taste, seed), 40)) for seed, prompt in enumerate(given)
    ]
    batch = Batch(rough(number), taste)
    found: dict[int, list[int]] = {}
    comes, goes = {0: [0, 1], 3: [2], 4: [3]}, {6: 1, 15: 3, 30: 0, 39: 2}
    for at in range(40):
        for seed in comes.get(at, []):
            found[batch.add(given[seed], seed)] = []
        if not batch.numbers:
            break
        for each, token in batch.step().items():
            found[each].append(token)
        if at in goes:
            batch.drop(goes[at])
    assert [len(found[each]) for each in range(4)] == [31, 7, 37, 12]
    assert all(found[each] == alone[each][: len(found[each])] for each in range(4))


@every_stage
def test_a_merged_memory_gives_the_logits_of_each_alone(number: int, rough, corpus: Corpus) -> None:
    model, given = rough(number), prompts(corpus, 4, 19, 11)
    memories: list[Memory] = [read(model, [*prompt, 0]).memory for prompt in given]
    merged = memories[0].joined(memories[1]).joined(memories[2])
    picked = merged.rows([2, 0, 2])
    more = mx.array(prompts(corpus, 3, 3, 3), mx.int32)
    expected = mx.concatenate([model.logprobs(more[row : row + 1], memories[row].rows([0])) for row in range(3)])
    assert differs(model.logprobs(more, merged), expected) < 1e-4
    assert differs(model.logprobs(more[mx.array([2, 0, 2])], picked), expected[mx.array([2, 0, 2])]) < 1e-4
    assert picked.room is None or picked.room == CONTEXT - 11 - 3


@every_stage
def test_chunks_of_a_prompt_are_the_whole(number: int, rough, corpus: Corpus, monkeypatch) -> None:
    [prompt] = prompts(corpus, 31)
    whole = rough(number).logprobs(mx.array([prompt]))[:, -1]
    for chunk in (1, 5, 30, 31):
        monkeypatch.setattr(decoding, "CHUNK", chunk)
        memory = rough(number).memory()
        assert differs(decoding.following(rough(number), [prompt], memory), whole) < 1e-4
        after = mx.array([[5]])
        again = rough(number).logprobs(mx.array([[*prompt, 5]]))[:, -1]
        assert differs(rough(number).following(after, memory), again) < 1e-4


@pytest.mark.parametrize("number", range(5, 12))
def test_writing_changes_no_weight_only_how_it_lies(number: int, rough, corpus: Corpus) -> None:
    model, [prompt] = copy.deepcopy(rough(number)), prompts(corpus, 20)
    model.train()  # weights are laid out for writing, never in the middle of a training
    before = {name: np.array(array) for name, array in model.arrays().items()}
    expected = model.following(mx.array([prompt]))
    assert lies_by_rows(model) == len(before)
    model.eval()
    assert differs(model.following(mx.array([prompt])), expected) < 1e-5
    if mx.default_device() == mx.cpu:
        assert lies_by_rows(model) < len(before)
    assert all((np.array(array) == before[name]).all() for name, array in model.arrays().items())


def lies_by_rows(model: Neural) -> int:
    """How many of its arrays NumPy sees row after row."""
    return sum(np.array(array, copy=False).flags.c_contiguous for array in model.arrays().values())


@pytest.mark.parametrize("number", range(5, 12))
def test_logits_of_the_prompt_are_never_made(number: int, rough, corpus: Corpus, monkeypatch) -> None:
    rows = []
    logits = Neural.logits
    monkeypatch.setattr(Neural, "logits", lambda self, hidden: rows.append(hidden.shape[:-1]) or logits(self, hidden))
    next(generate(rough(number), prompts(corpus, 30)[0], GREEDY, 0))
    assert set(rows) == {(1,)}


@every_stage
def test_a_reading_is_used_as_often_as_wanted(number: int, rough, corpus: Corpus) -> None:
    [prompt] = prompts(corpus, 20)
    reading, batch = read(rough(number), prompt[:-4]), Batch(rough(number), Taste())
    for seed in range(3):
        batch.add(prompt, seed, reading)
    told = [batch.step() for _ in range(20)]
    for seed in range(3):
        expected = list(itertools.islice(generate(rough(number), prompt, Taste(), seed), 20))
        assert [tokens[seed] for tokens in told] == expected


def test_a_reading_of_another_text_is_no_use(rough, corpus: Corpus) -> None:
    prompt, other = prompts(corpus, 20, 20)
    batch = Batch(rough(11), GREEDY)
    for each in (prompt, prompt[:5]):
        batch.add(each, 0, read(rough(11), other))
    told = [batch.step() for _ in range(9)]
    assert [tokens[0] for tokens in told] == uncached(rough(11), prompt, 9)
    assert [tokens[1] for tokens in told] == uncached(rough(11), prompt[:5], 9)


@pytest.mark.parametrize("outside", [-1, 512])
def test_a_prompt_of_ids_outside_the_vocabulary_is_refused(outside: int, rough) -> None:
    for ask in (lambda ids: next(generate(rough(11), ids, GREEDY, 0)), lambda ids: read(rough(11), ids)):
        with pytest.raises(TokenizerError, match=f"token id {outside}"):
            ask([1, outside])


# what may be shown


def shown(text: str | bytes, stops: Sequence[str] = (), size: int = 1) -> list[str]:
    """The pieces that a writer shows of a text of bytes, one a token, so that all strings are split over tokens."""
    tokenizer, raw = Tokenizer("byte"), text if isinstance(text, bytes) else text.encode()
    return list(stream(iter([*raw, tokenizer.eot, *b"never"]), Writer(tokenizer, 1_000, stops)))


def test_no_piece_holds_half_a_character() -> None:
    assert shown("né 😀!") == ["n", "é", " ", "😀", "!"]
    assert shown(b"a\xffb\xe2\x82") == ["a", "\ufffd", "b", "\ufffd"]  # what never becomes a character


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["zwei"], "one two three"),
        ("one tw", ["two"], "one tw"),  # held back, and shown once it cannot become one
        ("aaab", ["aab"], "a"),  # the beginning of a stop string that overlaps itself
        ("abcX", ["abcX", "bc"], "a"),  # the first that is complete
        ("xé!", ["é"], "x"),
        ("stop", ["stop"], ""),
        ("a\nb", ["\n\n", "\nb"], "a"),
    ],
)
def test_a_stop_string_ends_the_text_and_is_not_shown(text: str, stops: list[str], expected: str) -> None:
    assert "".join(shown(text, stops)) == expected


def test_what_may_become_a_stop_string_is_held_back_and_nothing_else() -> None:
    writer = Writer(Tokenizer("byte"), 100, ["two", "wonder"])
    assert [writer.take(token) for token in b"a two"] == ["a", " ", "", "", ""] and writer.ended
    writer = Writer(Tokenizer("byte"), 100, ["two", "wonder"])
    assert [writer.take(token) for token in b"twiwox"] == ["", "", "twi", "", "", "wox"] and not writer.ended


@pytest.mark.parametrize("seed", range(20))
def test_stop_strings_are_found_however_the_tokens_fall(seed: int, corpus: Corpus) -> None:
    chance = np.random.default_rng(seed)
    text = "".join(chance.choice(list("ab é"), 60))
    stops = ["".join(chance.choice(list("ab é"), chance.integers(1, 5))) for _ in range(2)]
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(ends)[1]] if ends else text
    tokenizer = corpus.tokenizer
    assert "".join(stream(iter([*tokenizer.encode(text), tokenizer.eot]), Writer(tokenizer, 1_000, stops))) == expected
    assert "".join(shown(text, stops)) == expected


def test_of_two_stop_strings_in_one_token_the_first_complete_one_counts(corpus: Corpus) -> None:
    tokenizer = corpus.tokenizer
    spelled = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    token = next(at for at, text in enumerate(spelled) if len(text) >= 4 and len(set(text)) == len(text))
    text = spelled[token]
    for stops in ([text, text[1:3]], [text[1:3], text]):
        assert "".join(stream(iter([token, token]), Writer(tokenizer, 2, stops))) == text[0]


def test_the_most_tokens_are_never_exceeded() -> None:
    tokens = iter(b"abcdef")
    assert "".join(stream(tokens, Writer(Tokenizer("byte"), 3))) == "abc" and next(tokens) == ord("d")
    assert list(stream(tokens, Writer(Tokenizer("byte"), 0))) == []


@pytest.mark.parametrize("number", [4, 7, 11])
def test_texts_written_together_are_those_of_single_ones(number: int, rough, corpus: Corpus) -> None:
    given, taste = prompts(corpus, 5, 2, 40), Taste(temperature=1.0)
    batch = Batch(rough(number), taste)
    for seed, prompt in enumerate(given):
        batch.add(prompt, seed)
    found = ["".join(pieces) for pieces in streams(batch, [Writer(corpus.tokenizer, 30, ["e "]) for _ in given])]
    for seed, prompt in enumerate(given):
        single = stream(generate(rough(number), prompt, taste, seed), Writer(corpus.tokenizer, 30, ["e "]))
        assert found[seed] == "".join(single)
    assert batch.numbers == []
