"""Which fields a request may have, per route, with type and range.

Three kinds: a field of the route's table is checked and goes to the engine as it is; a field in REFUSED (or named like a path or an
address) is refused, since somebody who sends it expects something that is never done here (a
constraint that no engine here reads counts as one); any other is left out and named in the response header x-rigserve-dropped-fields.
So an engine never sees a field that is not in a table.

The tables hold OpenAI's fields and those of vLLM 0.32's ChatCompletionRequest and CompletionRequest that can do no harm.
"""

from __future__ import annotations

import re
from typing import Any

from services.gateway.body import shown_name
from services.gateway.checks import Check, Schema, boolean, either, integer, list_of, mapping, number, one_of, scalar, schema, text
from services.gateway.messages import MESSAGES
from services.gateway.tools import TOOL_CHOICE, TOOLS
from services.wire.errors import InvalidValue

INT64 = 2**63
MAX_TOKENS = 2**20
MAX_N = 8
MAX_PRIORITY = 9
NAMED_IN_HEADER = 20

_bias = mapping(300, number(-100, 100), lambda key: key.isascii() and key.isdigit() and len(key) <= 7, "token ids",
                {"pattern": "^[0-9]{1,7}$"})
_stop = either(str, text(1000), list_of(text(1000), 16))
_token_ids = list_of(integer(0, 10**7), 1000)
_NO_VARIABLES = ("chat_template", "tokenize", "return_tensors", "messages")
_template_arguments = mapping(32, scalar, lambda key: key not in _NO_VARIABLES, "variables of the chat template",
                              {"not": {"enum": list(_NO_VARIABLES)}})
_STREAM_OPTIONS = ("include_usage", "continuous_usage_stats")

SAMPLING: dict[str, Check] = {
    "model": text(256, empty=False),
    "stream": boolean,
    "stream_options": mapping(4, boolean, lambda key: key in _STREAM_OPTIONS, "include_usage", {"enum": list(_STREAM_OPTIONS)}),
    "max_tokens": integer(1, MAX_TOKENS),
    "n": integer(1, MAX_N),
    "temperature": number(0, 2),
    "top_p": number(0, 1, above=True),
    "top_k": integer(-1, 10**6),
    "min_p": number(0, 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "repetition_penalty": number(0, 10, above=True),
    "length_penalty": number(-10, 10),
    "seed": integer(-INT64, INT64 - 1),
    "stop": _stop,
    "stop_token_ids": _token_ids,
    "bad_words": list_of(text(200), 100),
    "logit_bias": _bias,
    "allowed_token_ids": _token_ids,
    "logprob_token_ids": _token_ids,
    "prompt_logprobs": integer(0, 20),
    "ignore_eos": boolean,
    "min_tokens": integer(0, MAX_TOKENS),
    "include_stop_str_in_output": boolean,
    "skip_special_tokens": boolean,
    "spaces_between_special_tokens": boolean,
    "add_special_tokens": boolean,
    "echo": boolean,
    "truncate_prompt_tokens": integer(-1, MAX_TOKENS),
    "truncation_side": one_of("left", "right"),
    "use_beam_search": boolean,
    "stream_interval": integer(1, 1000),
    "return_tokens_as_token_ids": boolean,
    "return_token_ids": boolean,
    "repetition_detection": mapping(8, scalar),
    "thinking_token_budget": integer(-1, MAX_TOKENS),
    "watermarking": boolean,
    "response_format": schema((dict,)),
    "structured_outputs": schema((dict,)),
    "user": text(1000),
    "priority": integer(0, MAX_PRIORITY),
}

CHAT: dict[str, Check] = SAMPLING | {
    "messages": Check(lambda name, value: None, MESSAGES),  # looked into by messages.py
    "max_completion_tokens": integer(1, MAX_TOKENS),
    "logprobs": boolean,
    "top_logprobs": integer(0, 20),
    "tools": TOOLS,
    "tool_choice": TOOL_CHOICE,
    "parallel_tool_calls": boolean,
    "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "include_reasoning": boolean,
    "add_generation_prompt": boolean,
    "continue_final_message": boolean,
    "documents": list_of(mapping(32, text(2**20)), 100),
    "chat_template_kwargs": _template_arguments,
    "return_prompt_text": boolean,
}

_TOKENS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 10**7 - 1}, "minItems": 1}
_PROMPT: Schema = {"anyOf": [
    {"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 64},
    _TOKENS, {"type": "array", "items": _TOKENS, "minItems": 1, "maxItems": 64},
]}  # fmt: skip
COMPLETION: dict[str, Check] = SAMPLING | {
    "prompt": Check(lambda name, value: None, _PROMPT),  # looked into by text_request.py
    "suffix": text(2**20),
    "logprobs": integer(0, 20),
}

_ADDRESS = "names an address or a file; models and weights are chosen by the operator, never by a request"
_INTERNAL = "reaches into the engine and is not taken from requests"
REFUSED: dict[str, str] = {
    "api_key": "is sent in the Authorization header only",
    "chat_template": "would run a template of the request inside the engine; the model's own is used",
    "prompt_embeds": "would load tensors from the request; send text",
    "functions": "is the old form of tools; send tools",
    "function_call": "is the old form of tool_choice; send tool_choice",
    "audio": "is not served; this model answers in text",
    "web_search_options": "is not served; nothing is fetched for a request",
    "trust_remote_code": "is never done",
    "custom_pipeline": _ADDRESS, "custom_llm_provider": _ADDRESS, "model_list": _ADDRESS, "adapter": _ADDRESS,
    "textual_inversion": _ADDRESS, "init_image": _ADDRESS, "control_image": _ADDRESS,
    "extra_headers": _INTERNAL, "extra_body": _INTERNAL, "headers": _INTERNAL,
    "kv_transfer_params": _INTERNAL, "ec_transfer_params": _INTERNAL, "mm_processor_kwargs": _INTERNAL, "media_io_kwargs": _INTERNAL,
    "mm_payload": _INTERNAL, "vllm_xargs": _INTERNAL, "logits_processors": _INTERNAL, "logits_processor": _INTERNAL,
    "n_discard": _INTERNAL, "id_slot": _INTERNAL, "slot_id": _INTERNAL, "callbacks": _INTERNAL,
}
# Names of other engines or of older ones (guided_* was vLLM's, which 0.32 ignores). Left out, the answer would seem constrained.
_CONSTRAINT = re.compile(r"guided_[a-z_]+|grammar|json_schema|regex|ebnf", re.ASCII)
_CONSTRAIN = "is not read by the engines here, so it would constrain nothing; send structured_outputs (vLLM) or response_format instead"
_LIKE_AN_ADDRESS = re.compile(r"(^|_)(path|url|uri|base|dir|file|filename|host|proxy|proxies|endpoint|webhook)$|^api_|lora", re.ASCII)


def check_fields(body: dict[str, Any], table: dict[str, Check]) -> tuple[str, ...]:
    """Checks every field against the table; returns the names to leave out. Raises InvalidValue with param.

    1. In the table: null means absent, else its check decides.
    2. Refused by name, or named like an address: refused.
    3. A constraint on the answer under a name that no engine here reads: refused; null is left out.
    4. Else left out.
    """
    dropped = []
    for name, value in body.items():
        check = table.get(name)
        if check is not None:  # 1
            if value is not None:
                check.test(name, value)
        elif name in REFUSED or _LIKE_AN_ADDRESS.search(name):  # 2
            said = shown_name(name)
            raise InvalidValue(f"{said} {REFUSED.get(name, _ADDRESS)}; leave it out.", param=said)
        elif value is not None and _CONSTRAINT.fullmatch(name):  # 3
            raise InvalidValue(f"{shown_name(name)} {_CONSTRAIN}.", param=shown_name(name))
        else:  # 4
            dropped.append(name)
    return tuple(dropped)


def header_value(dropped: tuple[str, ...]) -> str:
    """The names for x-rigserve-dropped-fields: harmless characters only, and not without end."""
    names = [re.sub(r"[^A-Za-z0-9_.-]", "?", name[:64]) for name in dropped[:NAMED_IN_HEADER]]
    more = len(dropped) - len(names)
    return ", ".join(names) + (f", and {more} more" if more else "")
