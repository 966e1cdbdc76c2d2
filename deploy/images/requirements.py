"""Prints what projects of this repository need from others: requirements for pip, one a line.

    requirements.py FOLDER[EXTRA,...] ...

Images install these first, in layers that change with the pyproject.toml only. The standard library
is all that it uses: it runs where nothing is installed yet.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

#: The one project that others depend on, and where it lies.
SHARED_NAME, SHARED_FOLDER = "rondo", "shared"

_ARGUMENT = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<extras>[^\[\]]+)\])?")


def requirements(argument: str) -> Iterator[str]:
    """Of the project in a folder with its extras, and of what it takes from the shared one.

    Raises:
        SystemExit: the argument is not FOLDER or FOLDER[EXTRA,...], or there is no such extra.
    """
    parsed = _ARGUMENT.fullmatch(argument)
    if parsed is None:
        raise SystemExit(f"not FOLDER[EXTRA,...]: {argument}")
    project = tomllib.loads((Path(parsed["name"]) / "pyproject.toml").read_text())["project"]
    found = list(project["dependencies"])
    for extra in filter(None, (parsed["extras"] or "").split(",")):
        if extra not in project.get("optional-dependencies", {}):
            raise SystemExit(f"{parsed['name']} has no extra {extra!r}")
        found += project["optional-dependencies"][extra]
    for requirement in found:
        name, bracket, extras = requirement.partition("[")
        if name == SHARED_NAME:
            yield from requirements(SHARED_FOLDER + bracket + extras)
        else:
            yield requirement


if __name__ == "__main__":
    print(*sorted({line for text in sys.argv[1:] for line in requirements(text)}), sep="\n")
