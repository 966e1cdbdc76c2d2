"""Chat templates against transformers, and the sandbox."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from rondo.errors import ModelError
from rondo_gateway.errors import ApiError
from rondo_gateway.text.chat_template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = """{% for message in messages %}
    {% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}"""

LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("Conversation roles must alternate user/assistant/user/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""

FEATURES = """{% set ns = namespace(found=false) %}
{% for message in messages %}
  {% if message.role == 'tool' %}{% continue %}{% endif %}
  {% if loop.index > 3 %}{% break %}{% endif %}
    {% generation %}
{{ message | tojson }}|{{ message | tojson(indent=2) }}
    {% endgeneration %}
  {% set ns.found = true %}
{% endfor %}
{{ ns.found }} {{ dict(a=1, b="<&>") | tojson }} {{ unk_token }} {{ missing }}
{% macro shout(text) %}{{ text | upper }}!{% endmacro %}{{ shout("hey") }}
"""

USER: dict[str, Any] = {"role": "user", "content": '  What\'s 1 < 2 & "3"? 你好 👍\n '}
SYSTEM: dict[str, Any] = {"role": "system", "content": " Be brief.\n"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "Yes. </s>"}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "look_up", "arguments": {"q": "<b>Zürich</b>", "n": [1, 2.5]}},
        }
    ],
}
RESULT: dict[str, Any] = {"role": "tool", "content": "{}", "tool_call_id": "call_1"}

TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "mistral": MISTRAL, "features": FEATURES}
CHATS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ANSWER, USER],
    "tools": [USER, CALL, RESULT, ANSWER, USER],
}


def reference(source: str, messages: list[dict[str, Any]], generate: bool) -> str:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), chat_template=source, **SPECIAL
    )
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
    assert isinstance(text, str)
    return text


# The Mistral template refuses tools, see the test of refusals.
PAIRS = [
    (name, chat) for name in TEMPLATES for chat in CHATS if (name, chat) != ("mistral", "tools")
]


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize(("name", "chat"), PAIRS)
def test_renders_as_transformers_does(name: str, chat: str, generate: bool) -> None:
    template = ChatTemplate(TEMPLATES[name], SPECIAL)
    rendered = template.render(CHATS[chat], add_generation_prompt=generate)
    assert rendered == reference(TEMPLATES[name], CHATS[chat], generate)


def test_a_refusal_is_a_400_in_the_templates_own_words() -> None:
    with pytest.raises(ApiError, match="roles must alternate") as caught:
        ChatTemplate(MISTRAL, SPECIAL).render([USER, USER])
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_what_a_template_trips_over_is_a_400() -> None:
    with pytest.raises(ApiError) as caught:
        ChatTemplate("{{ messages[0].content + 1 }}", {}).render([USER])
    assert caught.value.status == 400


def test_a_template_that_does_not_compile_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="line 2"):
        ChatTemplate("ok\n{% for x %}", {})


def test_developer_is_rendered_as_system_unless_the_template_knows_it() -> None:
    chat = [{"role": "developer", "content": "x"}]
    assert ChatTemplate("{{ messages[0].role }}", {}).render(chat) == "system"
    knowing = "{% if messages[0].role == 'developer' %}dev{% endif %}"
    assert ChatTemplate(knowing, {}).render(chat) == "dev"
    assert chat[0]["role"] == "developer"


ESCAPES = [
    "{{ messages.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages[0].__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['os'].system('true') }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__globals__ }}",
    "{{ dict.mro() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ ('{0.__class__.__mro__}').format(1) }}",
    "{{ '{0.__globals__}'.format(raise_exception) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].clear() }}",
    "{% set x = namespace(__class__=1) %}{{ x }}",
    "{% set x = namespace() %}{% set x.__init__ = 1 %}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | attr('__class__') }}",
    "{{ range(999999999) | list }}",
    "{% include 'x' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_the_sandbox_holds(source: str) -> None:
    messages = [dict(USER)]
    try:
        text = ChatTemplate(source, {}).render(messages)
    except (ApiError, ModelError):
        text = ""
    assert "class" not in text
    assert "function" not in text
    assert "{'" not in text
    assert messages == [USER]


def test_a_forbidden_operation_is_the_models_fault() -> None:
    with pytest.raises(ModelError, match="forbidden"):
        ChatTemplate("{{ ''.__class__.__mro__ }}", {}).render([USER])
