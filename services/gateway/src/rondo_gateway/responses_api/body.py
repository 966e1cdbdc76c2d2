"""The body of POST /v1/responses, and the chat that it stands for.

Surface: `ResponsesBody` with `items` and `chat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError

from rondo_gateway.errors import invalid
from rondo_gateway.fields import Items, JsonObject, Text, ToolChoice, unsupported
from rondo_gateway.messages import FunctionName, Strict
from rondo_gateway.schemas import ChatBody

LOGPROBS = "message.output_text.logprobs"
#: What fields of the chat are called here.
_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "logprobs": "include",
}
_TEXT_PARTS = ("input_text", "output_text", "text")


class FunctionTool(Strict):
    """A function, with its fields at the top."""

    type: Literal["function"]
    name: FunctionName
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def for_chat(self) -> dict[str, Any]:
        """Return it as a chat has it."""
        return {"type": "function", "function": self.model_dump(exclude={"type"})}


class TextFormat(Strict):
    """The form of the answer; a schema's fields are at the top."""

    type: Literal["text", "json_object", "json_schema"]
    name: Text | None = None
    schema_: Annotated[JsonObject | None, Field(alias="schema")] = None


class TextOptions(Strict):
    """The field `text`."""

    format: TextFormat | None = None


class ResponsesBody(Strict):
    """POST /v1/responses."""

    model: Text
    input: Items
    instructions: Text | None = None
    previous_response_id: Text | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    stream: bool | None = None
    store: bool | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    metadata: JsonObject | None = None
    slo: Any = None

    background: Annotated[Any, unsupported(False)] = None
    context_management: Annotated[Any, unsupported([])] = None
    conversation: Annotated[Any, unsupported()] = None
    image: Annotated[Any, unsupported()] = None
    max_tool_calls: Annotated[Any, unsupported()] = None
    moderation: Annotated[Any, unsupported()] = None
    prompt: Annotated[Any, unsupported()] = None
    truncation: Annotated[Any, unsupported("disabled")] = None
    access_programs: Annotated[Any, unsupported([])] = None

    def items(self) -> list[dict[str, Any]]:
        """The input as items."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}]
        return list(self.input)

    def chat(self, history: Sequence[dict[str, Any]]) -> ChatBody:
        """The chat that this stands for.

        Args:
            history: items before the input. Instructions are of this request alone.

        Raises:
            RequestValidationError: under the names of this body's fields.
            ApiError: 400, an item is of a kind that text models do not have.
        """
        messages = _messages([*history, *self.items()])
        if self.instructions is not None:
            messages.insert(0, {"role": "developer", "content": self.instructions})
        wanted = LOGPROBS in (self.include or ())
        fields = {
            "model": self.model,
            "messages": messages,
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "logprobs": wanted,
            "top_logprobs": self.top_logprobs if wanted else None,
            "stream": self.stream,
            "tools": [tool.for_chat() for tool in self.tools or ()],
            "tool_choice": _chat_choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": self._format(),
            "slo": self.slo,
        }
        try:
            return ChatBody.model_validate(fields)
        except ValidationError as error:
            raise RequestValidationError(
                [_renamed(problem) for problem in error.errors()]
            ) from None

    def _format(self) -> dict[str, Any] | None:
        form = self.text.format if self.text else None
        if form is None:
            return None
        if form.type != "json_schema":
            return {"type": form.type}
        schema = {"name": form.name, "schema": form.schema_}
        return {"type": "json_schema", "json_schema": schema}


def _messages(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "message":
            content = _content(item.get("content"))
            messages.append({"role": item.get("role"), "content": content})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if messages and messages[-1].get("tool_calls"):
                messages[-1]["tool_calls"].append(call)  # of the same answer
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            output = _content(item.get("output"))
            call_id = item.get("call_id")
            messages.append({"role": "tool", "content": output, "tool_call_id": call_id})
        elif kind != "reasoning":  # which is not shown to models that make none
            message = f"Items of the type '{kind}' are not supported."
            raise invalid(message, f"input.{index}.type", "unsupported_content")
    return messages


def _content(content: Any) -> Any:
    """Parts under the names that a chat has for them."""
    if not isinstance(content, list):
        return content
    return [
        {**part, "type": "text"}
        if isinstance(part, dict) and part.get("type") in _TEXT_PARTS
        else part
        for part in content
    ]


def _chat_choice(choice: str | None) -> Any:
    name = (choice or "").partition(":")[2]
    return {"type": "function", "function": {"name": name}} if name else choice


def _renamed(problem: Any) -> dict[str, Any]:
    first, *rest = problem["loc"]
    return {**problem, "loc": ("body", _NAMES.get(str(first), first), *rest)}
