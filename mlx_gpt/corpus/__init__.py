"""Text to memory-mapped token ids, split three ways, and batches with a position."""

from mlx_gpt.corpus.ahead import Ahead
from mlx_gpt.corpus.batches import Running, Shuffled
from mlx_gpt.corpus.corpus import Corpus, Source, Text, cache_folder, encode_text, open_corpus
from mlx_gpt.corpus.documents import absolute_paths, documents, files, named_paths
from mlx_gpt.corpus.overlap import Overlap, Traces
from mlx_gpt.corpus.units import Units, units

__all__ = [
    "Ahead",
    "Corpus",
    "Overlap",
    "Running",
    "Shuffled",
    "Source",
    "Text",
    "Traces",
    "Units",
    "absolute_paths",
    "cache_folder",
    "documents",
    "encode_text",
    "files",
    "named_paths",
    "open_corpus",
    "units",
]
