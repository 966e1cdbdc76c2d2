"""Nothing that is read can run: no pickle, no eval, templates in a sandbox, weights as safetensors.

The checks read the sources, so that they hold for code that no test reaches.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["shared/src", "services", "bench/src", "tools", "deploy"]

#: Modules whose formats run code when they are read, or that use one of them.
FORBIDDEN_MODULES = {
    "_pickle",
    "cloudpickle",
    "code",
    "codeop",
    "copyreg",
    "dill",
    "joblib",
    "jsonpickle",
    "marshal",
    "multiprocessing",
    "pickle",
    "shelve",
    "torch.multiprocessing",
    "xmlrpc",
    "yaml",
}
#: Names that run text, or read what can.
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.hub.load",
    "torch.package.PackageImporter",
    "torch.jit.load",
    "torch.distributed.broadcast_object_list",
    "torch.distributed.send_object_list",
    "torch.distributed.recv_object_list",
    "torch.distributed.all_gather_object",
    "numpy.load",
    "np.load",
    "tempfile.mktemp",
}
#: The stages of an engine are children of its own process: how Python starts them is theirs alone,
#: and what they are told afterwards is bytes of the messages' codec.
OWN_CHILDREN = {"pipeline/processes.py", "pipeline/stage.py"}
ONE_PLACE = {"jinja2": {"chat_template.py"}, "safetensors": {"weights.py", "memory.py"}}


@cache
def sources() -> dict[Path, ast.Module]:
    return {
        path: ast.parse(path.read_text())
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module, and every name of one, that is imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def is_below(name: str, modules: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:count]) in modules for count in range(1, len(parts) + 1))


def findings(tree: ast.Module) -> list[str]:
    """What a file must not have."""
    found = [
        f"{line}: import {name}"
        for name, line in imports(tree)
        if is_below(name, FORBIDDEN_MODULES)
    ]
    aliases = {name.rpartition(".")[2]: name for name, _ in imports(tree) if "." in name}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        name = aliases.get(name, name)
        if name in FORBIDDEN_CALLS:
            found.append(f"{node.lineno}: {name}()")
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            wrong = {"shell": True, "trust_remote_code": True, "weights_only": False}
            if keyword.arg in wrong and value is wrong[keyword.arg]:
                found.append(f"{node.lineno}: {keyword.arg}={value}")
    return found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import torch.multiprocessing as mp",
        "from multiprocessing.connection import Listener",
        "def f():\n    from yaml import load",
        "import torch\ntorch.load('x')",
        "from torch import load\nload('x')",
        "eval('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "load(trust_remote_code=True)",
    ],
)
def test_the_check_finds_what_it_looks_for(text: str) -> None:
    assert findings(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    ["import json", "model.eval()", "re.compile('x')", "torch.compile(f)", "run(shell=False)"],
)
def test_and_nothing_else(text: str) -> None:
    assert findings(ast.parse(text)) == []


def test_nothing_reads_code_as_data() -> None:
    found = {}
    for path, tree in sources().items():
        problems = findings(tree)
        if f"{path.parent.name}/{path.name}" in OWN_CHILDREN:
            problems = [text for text in problems if "import multiprocessing" not in text]
        if problems:
            found[str(path.relative_to(ROOT))] = problems
    assert found == {}


def test_processes_of_one_engine_send_each_other_bytes() -> None:
    """`send` and `recv` of a multiprocessing connection pickle; `send_bytes` does not."""
    seen = 0
    for path, tree in sources().items():
        if f"{path.parent.name}/{path.name}" not in OWN_CHILDREN:
            continue
        seen += 1
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("send", "recv"):
                owner = ast.unparse(node.value).lower()
                assert "connection" not in owner
                assert "controller" not in owner
    assert seen == len(OWN_CHILDREN)


@pytest.mark.parametrize("module", ONE_PLACE)
def test_templates_and_weights_are_read_in_one_place(module: str) -> None:
    places = {
        path.name
        for path, tree in sources().items()
        if "services" in path.parts and any(is_below(name, {module}) for name, _ in imports(tree))
    }
    assert places
    assert places <= ONE_PLACE[module]


def test_templates_are_made_in_the_sandbox_only() -> None:
    [tree] = [tree for path, tree in sources().items() if path.name == "chat_template.py"]
    imported = {name for name, _ in imports(tree) if is_below(name, {"jinja2"})}
    environments = {name for name in imported if name.endswith("Environment")}
    assert environments == {"jinja2.sandbox.ImmutableSandboxedEnvironment"}
    assert not any(name.endswith(".Template") for name in imported)
    base = {
        ast.unparse(node)
        for one in ast.walk(tree)
        if isinstance(one, ast.ClassDef)
        for node in one.bases
    }
    assert not any("Environment" in name for name in base)


def test_files_of_weights_are_opened_by_safetensors_only() -> None:
    """No file of a model's is named that could be anything but JSON, a template, or safetensors."""
    endings = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".gguf", ".npy", ".npz")
    named = {
        f"{path.relative_to(ROOT)}:{node.lineno}": node.value
        for path, tree in sources().items()
        if path.is_relative_to(ROOT / "services") or path.is_relative_to(ROOT / "shared")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.endswith(endings)
        and " " not in node.value
    }
    assert named == {}
