"""Imports point down only, stage files do not know one another, and scripts that are no benchmarks have no logic."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mlx_gpt"
LEVELS = [
    {
        "asked",
        "bootstrap",
        "errors",
        "replacing",
        "safetensors",
        "recipe",
        "device",
        "tokenizer",
        "stories",
        "memory",
        "kv_cache",
        "plot",
        "chart",
        "chosen",
        "surprise",
        "events",
    },
    {"corpus"},
    {"model"},
    {"cached", "endless", "measure"},
    {"counting", "descent"},
    {"stages"},
    {"checkpoint", "sampling", "decoding", "beam", "distillation", "drafting"},
    {
        "acceptance",
        "completion",
        "compression",
        "door",
        "folder",
        "heldout",
        "interactive",
        "league",
        "mixture",
        "probes",
        "prompt_cache",
        "roster",
        "run",
    },
    {"reporting", "training"},
    {
        "train",
        "generate",
        "evaluate",
        "compare",
        "report",
        "skills",
        "download",
        "ladder",
        "count",
        "merge",
        "quantize",
        "arpa",
        "compress",
        "decompress",
        "distill",
        "across",
    },
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
INSIDE = {
    ("recipe", "errors"),
    ("asked", "errors"),
    ("device", "errors"),
    ("tokenizer", "errors"),
    ("safetensors", "errors"),
    ("safetensors", "replacing"),
    ("replacing", "errors"),
    ("stories", "errors"),
    ("chart", "plot"),
    ("decoding", "sampling"),
    ("beam", "decoding"),
    ("drafting", "decoding"),
    ("distillation", "decoding"),
    ("distillation", "sampling"),
    ("drafting", "sampling"),
    ("memory", "errors"),
    ("kv_cache", "errors"),
    ("kv_cache", "memory"),
    ("door", "checkpoint"),
    ("interactive", "completion"),
    ("run", "folder"),
    ("roster", "folder"),
    ("compression", "mixture"),
    ("probes", "heldout"),
}  # within one level, this way only


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Top-level modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlx_gpt"):
            parts = (node.module or "").split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            found |= {name for name in names if name != "__version__"}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mlx_gpt.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported(path) - {own}:
        assert LEVEL[other] < LEVEL[own] or (own, other) in INSIDE, f"{own} imports {other}"


def test_stage_files_never_import_one_another() -> None:
    for path in (PACKAGE / "stages").glob("s*.py"):
        assert "stages" not in imported(path), path.name


def test_nothing_unpickles_or_evaluates() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "shelve", "marshal"} & set(names), path


def test_modules_stay_readable() -> None:
    for path in [*modules(), *(PACKAGE.parent / "scripts").glob("*.py")]:
        assert len(path.read_text().splitlines()) <= 390, path


SCRIPTS = sorted(path for path in (PACKAGE.parent / "scripts").glob("*.py") if not path.name.startswith("bench_"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)  # a benchmark is a whole program
def test_a_script_is_an_import_and_a_call(path: Path) -> None:
    docstring, first, second = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(first, ast.ImportFrom)
    assert isinstance(second, ast.Expr) and isinstance(second.value, ast.Call)


def test_there_is_a_script_for_every_stage() -> None:
    stages = {path.stem[1:] for path in (PACKAGE / "stages").glob("s*.py")}
    assert stages == {path.stem for path in (PACKAGE.parent / "scripts").glob("[01]*.py")}
