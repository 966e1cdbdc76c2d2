"""Tools of a chat: how calls are asked for, forced and read.

Surface: `plan_tools`, `tool_structure`.
"""

from __future__ import annotations

import json
from typing import Any

from rondo_gateway.errors import invalid
from rondo_gateway.messages import FunctionDefinition
from rondo_gateway.plan import ToolPlan
from rondo_gateway.schemas import ChatBody
from rondo_gateway.structure import Structure, lark_json
from rondo_gateway.text.model_files import ModelFiles

#: Where a schema keeps what its references point to; they point from its root.
_DEFINITIONS = ("$defs", "definitions")
#: The format of calls that are forced on a model without one of its own.
_FALLBACK = "hermes"


def plan_tools(body: ChatBody, model: ModelFiles, setting: str) -> ToolPlan | None:
    """How calls are read from the answer; None where no tool may be called.

    Args:
        setting: the format that the operator chose; empty: the chat template tells.

    Raises:
        ApiError: 400, the model's chat template shows it no tools, so it could not choose one.
    """
    tools = body.active_tools
    if not tools:
        return None
    template = model.chat_template
    known = setting or (template.tool_parser if template else None)
    forced = _forced(body)
    if known is None and not forced:
        message = (
            f"The chat template of '{model.name}' takes no tools, so the model cannot choose one; "
            "'tool_choice' can be 'required' or name a function."
        )
        raise invalid(message, "tools", "unsupported_parameter")
    name = _named(body)
    return ToolPlan(
        parser=known or _FALLBACK,
        names=tuple(name and [name] or [tool.function.name for tool in tools]),
        parallel=body.parallel_tool_calls is not False and not name,
        named=bool(name),
    )


def tool_structure(body: ChatBody, plan: ToolPlan) -> Structure | None:
    """The grammar of calls that `tool_choice` forces; None where the model is free."""
    if not _forced(body):
        return None
    functions = [t.function for t in body.active_tools if t.function.name in plan.names]
    key = "parameters" if plan.parser == "llama3_json" else "arguments"
    rules = [f"f{i}: {lark_json(_call_schema(f, key))}" for i, f in enumerate(functions)]
    any_call = "call: " + " | ".join(f"f{i}" for i in range(len(rules)))
    start = _START[plan.parser][plan.parallel]
    return Structure("lark", "\n".join([f"start: {start}", any_call, *rules]), "tools")


#: What calls stand in, for one call and for several.
_START = {
    "hermes": (
        r'"<tool_call>\n" call "\n</tool_call>"',
        r'"<tool_call>\n" call "\n</tool_call>" ("\n<tool_call>\n" call "\n</tool_call>")*',
    ),
    "mistral": (
        '"[TOOL_CALLS][" call "]"',
        '"[TOOL_CALLS][" call (", " call)* "]"',
    ),
    "llama3_json": ("call", 'call ("; " call)*'),
}


def _forced(body: ChatBody) -> bool:
    return body.tool_choice not in (None, "none", "auto")


def _named(body: ChatBody) -> str:
    return (body.tool_choice or "").partition(":")[2]


def _call_schema(function: FunctionDefinition, key: str) -> dict[str, Any]:
    """The JSON schema of a whole call; definitions move to its root, where references look."""
    arguments = dict(function.schema_of_arguments)
    moved = {name: arguments.pop(name) for name in _DEFINITIONS if name in arguments}
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, key: arguments},
        "required": ["name", key],
        "additionalProperties": False,
        **json.loads(json.dumps(moved)),
    }
