"""Fetch public corpora: python scripts/download.py --help"""

from mlx_gpt.download import main

main()
