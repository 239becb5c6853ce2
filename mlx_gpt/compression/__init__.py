"""Files in as many bits as a trained model says, and back to the byte."""

from mlx_gpt.compression.codec import STREAMS, Codec, Compressed, compress, decompress, opened
from mlx_gpt.compression.header import Header, elsewhere, read_header

__all__ = [
    "STREAMS",
    "Codec",
    "Compressed",
    "Header",
    "compress",
    "decompress",
    "elsewhere",
    "opened",
    "read_header",
]
