"""What is told of a text is what its tokens were chosen from, for every stage, and JSON holds all of it."""

import itertools
import json
import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_gpt import completion, decoding, stages
from mlx_gpt.completion import Text, in_full, sampling_logprobs, table, told
from mlx_gpt.corpus import Corpus
from mlx_gpt.decoding import Writer, generate, read, stream
from mlx_gpt.door import as_json
from mlx_gpt.errors import TokenizerError
from mlx_gpt.memory import Memory, State
from mlx_gpt.sampling import Taste, distribution
from mlx_gpt.tokenizer import Tokenizer
from tests.conftest import with_slow

BEGUN = list(itertools.product([1, 20, 33, 90], [True, False]))  # the context is 32
TASTE = Taste(temperature=0.7, top_p=0.9, repetition_penalty=1.5, frequency_penalty=0.3)


@pytest.mark.parametrize("number", with_slow(stages.numbers()))
@pytest.mark.parametrize(("length", "begun"), with_slow(BEGUN, [(20, True), (90, True), (1, False), (33, False)]))
def test_what_is_told_is_what_the_tokens_were_chosen_from(
    number: int, length: int, begun: bool, rough, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt, rows, laws = rough(number), corpus.test.ids[:length].tolist(), [], []
    choose = decoding.choose

    def watched(logprobs, taste, keys, counts=None):
        rows.append(np.array(logprobs[0]))
        laws.append(np.array(distribution(logprobs, taste, counts)[0]))
        return choose(logprobs, taste, keys, counts)

    monkeypatch.setattr(decoding, "choose", watched)
    monkeypatch.setattr(completion, "AT_ONCE", 7)
    tokens = list(itertools.islice(generate(model, prompt, TASTE, 5), 45))
    reading = read(model, prompt) if begun else None
    counts, found, law = np.zeros(model.vocab_size, np.int32), [], []
    for logprobs, some in told(model, prompt, reading, tokens, 3):
        found += some
        law += sampling_logprobs(logprobs, [each.token for each in some], counts, TASTE)
    assert [each.token for each in found] == tokens
    for each, drawn, row, at in zip(found, law, rows, laws, strict=False):  # one more was on its way
        assert each.logprob == pytest.approx(row[each.token], abs=1e-3)
        assert drawn == pytest.approx(at[each.token], abs=1e-2)
        assert [nats for _, nats in each.alternatives] == pytest.approx(sorted(row, reverse=True)[:3], abs=1e-3)
    assert counts.tolist() == np.bincount(tokens, minlength=model.vocab_size).tolist()


def test_ids_outside_the_vocabulary_are_refused(rough) -> None:
    for prompt, tokens in (([1, 512], [3]), ([1], [3, -1, 4])):
        with pytest.raises(TokenizerError, match=r"token id (512|-1)"):
            list(told(rough(11), prompt, None, tokens))


class Trained:
    """A model of bytes: a and 0xE6, a quarter each, or the end of text; nothing else is possible."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.model = tokenizer, self
        self.vocab_size = tokenizer.vocab_size

    def memory(self, batch: int = 1) -> Memory:
        return State([mx.zeros((batch, 1))])

    def logprobs(self, ids: mx.array, memory: object = None) -> mx.array:
        p = np.zeros(self.vocab_size)
        p[[ord("a"), 0xE6]], p[self.tokenizer.eot] = 0.25, 0.5
        return mx.log(mx.broadcast_to(mx.array(p.astype(np.float32)), (*ids.shape, len(p))))


def written(tokens: list[int], tokenizer: Tokenizer, most: int = 99, stops: tuple[str, ...] = ()) -> Text:
    writer = Writer(tokenizer, most, stops)
    return Text({"seed": 7}, writer, stream(tokens, writer))


def test_json_holds_every_token_half_characters_and_what_is_impossible() -> None:
    tokenizer = Tokenizer("byte")
    eot, trained = tokenizer.eot, Trained(Tokenizer("byte"))
    text = written([0xE6, ord("c"), eot, 0], tokenizer)
    line = as_json(in_full(text, trained, 'a "prompt"', [eot], None, Taste(temperature=1), 2))  # type: ignore[arg-type]
    found = json.loads(line.encode().decode())
    assert "\n" not in line and list(found) == ["prompt", "seed", "text", "finish_reason", "tokens"]
    assert (found["prompt"], found["seed"], found["text"]) == ('a "prompt"', 7, "\ufffdc")
    assert found["finish_reason"] == "end of text"
    half, quarter = pytest.approx(math.log(0.5)), pytest.approx(math.log(0.25))
    top = [
        {"id": eot, "token": "<|endoftext|>", "logprob": half},
        {"id": ord("a"), "token": "a", "logprob": quarter},
    ]
    rows = [(0xE6, "<0xE6>", quarter), (ord("c"), "c", None), (eot, "<|endoftext|>", half)]
    assert found["tokens"] == [
        {"id": token, "token": name, "logprob": nats, "sampling_logprob": nats, "top_logprobs": top}
        for token, name, nats in rows
    ]
    plain = in_full(written([97], tokenizer, 1), trained, "", [eot], None, None, 0)  # type: ignore[arg-type]
    assert plain["tokens"] == [{"id": 97, "token": "a", "logprob": quarter}] and plain["finish_reason"] == "length"


def test_the_text_ends_before_a_stop_string_whose_tokens_are_told() -> None:
    tokenizer = Tokenizer("byte")
    text = written([*b"aa\na"], tokenizer, stops=("\n",))
    found = in_full(text, Trained(tokenizer), "", [0], None, None, 0)  # type: ignore[arg-type]
    assert (found["text"], found["finish_reason"], len(found["tokens"])) == ("aa", "stop", 3)


def test_the_table_is_a_line_a_token() -> None:
    tokenizer = Tokenizer("byte")
    lines = table(written([97, 10, tokenizer.eot], tokenizer), Trained(tokenizer), [0], None, 1).splitlines()  # type: ignore[arg-type]
    assert lines == [
        '    0.25  "a"              "<|endoftext|>" 0.5',
        '       0  "\\n"             "<|endoftext|>" 0.5',
        '     0.5  "<|endoftext|>"  "<|endoftext|>" 0.5',
    ]
