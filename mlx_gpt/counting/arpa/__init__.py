"""Models as ARPA text, the format of KenLM and SRILM, out and in."""

from mlx_gpt.counting.arpa.reader import Arpa, Vocabulary, read_arpa
from mlx_gpt.counting.arpa.sentences import END_ID, UNKNOWN_ID, read_sentences
from mlx_gpt.counting.arpa.spelling import words_of
from mlx_gpt.counting.arpa.writer import seen_ids, write_arpa

__all__ = [
    "END_ID",
    "UNKNOWN_ID",
    "Arpa",
    "Vocabulary",
    "read_arpa",
    "read_sentences",
    "seen_ids",
    "words_of",
    "write_arpa",
]
