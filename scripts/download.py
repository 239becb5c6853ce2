"""Fetch public corpora into data/: python scripts/download.py --list"""

from mlx_gpt.download import main

main()
