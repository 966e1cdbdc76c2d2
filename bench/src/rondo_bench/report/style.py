"""Names, order, colours and marks of what the report shows: a system looks the same everywhere.

The hues are those of Okabe and Ito (2008), told apart by the colour-blind; two systems of one
family share a hue in two shades, and every line has a mark of its own. Dark pages take lighter
shades of the hues that would drown.
"""

from __future__ import annotations

from dataclasses import dataclass

SYSTEMS = (
    "padg",
    "padg-paper",
    "nodg-jsq",
    "nodg-rr",
    "chunked-jsq",
    "chunked-rr",
    "fudg",
    "fudg-ideal",
)
#: Not a system: what the steps' durations allow any schedule that moves no KV.
CEILING = "ceiling"
NODG = ("nodg-rr", "nodg-jsq", "chunked-rr", "chunked-jsq")
DATASETS = ("alpaca", "sharegpt", "longbench")
MODELS = ("llama-30b", "codellama-34b", "qwen2-72b")
GPUS = ("l20", "a100", "h100")
TARGETS = (0.99, 0.9, 0.5)

_NAMES = {
    "padg": "PaDG, ours",
    "padg-paper": "PaDG, paper",
    "nodg-jsq": "separate batches, shortest queue",
    "nodg-rr": "separate batches, round robin",
    "chunked-jsq": "chunked, shortest queue",
    "chunked-rr": "chunked, round robin",
    "fudg": "FuDG",
    "fudg-ideal": "FuDG, ideal links",
    "alpaca": "Alpaca",
    "sharegpt": "ShareGPT",
    "longbench": "LongBench",
    "llama-30b": "Llama-30B",
    "codellama-34b": "CodeLlama-34B",
    "qwen2-72b": "Qwen2-72B",
    "l20": "L20",
    "a100": "A100",
    "h100": "H100",
}


@dataclass(frozen=True, slots=True)
class Look:
    """Colour on a light and on a dark page, and the mark and dashes of a line."""

    light: str
    dark: str
    marker: str
    dashes: str


#: Every shade occurs once: `plots` finds a look again by its light shade.
LOOKS = {
    "padg": Look("#d55e00", "#ff7a1f", "o", "-"),
    "padg-paper": Look("#e69f00", "#f2b632", "s", "--"),
    "nodg-jsq": Look("#0072b2", "#3d9bd9", "^", "-"),
    "nodg-rr": Look("#56b4e9", "#9bd4f5", "v", "--"),
    "chunked-jsq": Look("#00795a", "#12b886", "D", "-"),
    "chunked-rr": Look("#4fc3a1", "#96e6cd", "d", "--"),
    "fudg": Look("#a84a80", "#cc79a7", "P", "-"),
    "fudg-ideal": Look("#cc79a8", "#eab4d2", "X", ":"),
}
OTHER = Look("#767676", "#9a9a9a", "*", "-.")
#: Text and frame, grid lines.
INK = Look("#1b1b1b", "#e8e8e8", "", "-")
GRID = Look("#d0d0d0", "#454545", "", "-")


def look(system: str) -> Look:
    """How a system is drawn; those of a single experiment are all grey."""
    return LOOKS.get(system, OTHER)


def css_variables() -> dict[str, Look]:
    """The names of the page's colours."""
    shades = {f"--c-{name}": look for name, look in LOOKS.items()}
    return shades | {"--c-other": OTHER, "--ink": INK, "--grid": GRID}


def label(name: str) -> str:
    """The name as a reader expects it."""
    return _NAMES.get(name, name)


def percentile(target: float) -> str:
    """`P99` for an attainment of 0.99."""
    return f"P{target * 100:g}"
