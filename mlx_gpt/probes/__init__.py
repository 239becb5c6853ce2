"""What a model can do, skill by skill: probes on any text, and the price of dependencies on ours."""

from mlx_gpt.probes.asking import Asking
from mlx_gpt.probes.pairs import SKILLS
from mlx_gpt.probes.table import legend, table

__all__ = ["SKILLS", "Asking", "legend", "table"]
