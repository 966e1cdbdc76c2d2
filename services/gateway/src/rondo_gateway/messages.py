"""Messages and tools in the bodies of chats."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from rondo_gateway.fields import Arguments, Content, JsonObject, Text

#: OpenAI's limits.
MAX_TOOLS = 128
FunctionName = Annotated[Text, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Strict(BaseModel):
    """Base of all bodies: strict types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class FunctionCall(Strict):
    """The function that an assistant's earlier message called."""

    name: Text
    arguments: Arguments


class ToolCall(Strict):
    """A tool call in an assistant's earlier message."""

    id: Text | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Strict):
    """One message; only an assistant's may lack content."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = Field(default=None, validate_default=True)
    name: Text | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: Text | None = None

    @field_validator("content")
    @classmethod
    def _required(cls, content: str | None, info: ValidationInfo) -> str | None:
        if content is None and info.data.get("role") not in (None, "assistant"):
            raise ValueError("must be a string or a list of text parts")
        return content

    def for_template(self) -> dict[str, Any]:
        """Return the message as chat templates expect it: keys without a value are left out."""
        message = self.model_dump(exclude_none=True)
        message["content"] = self.content or ""  # templates concatenate it
        if not self.tool_calls:
            message.pop("tool_calls", None)
        return message


class FunctionDefinition(Strict):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: FunctionName
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """What its arguments must be; any object where nothing is said."""
        return self.parameters or {"type": "object"}


class Tool(Strict):
    """A tool; functions are the only kind that runs at the client."""

    type: Literal["function"]
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        """Return the tool as chat templates expect it."""
        return self.model_dump(exclude_none=True)


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS)]
