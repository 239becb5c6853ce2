"""Train the whole ladder and print the league table: python scripts/train_all.py --help"""

from mlx_gpt.ladder import main

main()
