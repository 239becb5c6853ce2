"""Text to memory-mapped token ids, split three ways, and batches with a position."""

from mlx_gpt.corpus.ahead import Ahead
from mlx_gpt.corpus.batches import Running, Shuffled
from mlx_gpt.corpus.corpus import Corpus, Source, Text, cache_folder, encode_text, open_corpus, overlap
from mlx_gpt.corpus.documents import documents, files, named_paths

__all__ = [
    "Ahead",
    "Corpus",
    "Running",
    "Shuffled",
    "Source",
    "Text",
    "cache_folder",
    "documents",
    "encode_text",
    "files",
    "named_paths",
    "open_corpus",
    "overlap",
]
