"""Chat templates of well-known families in miniature, each with marks of what the assistant says, and tokenizers for them.

`[[` and `]]` enclose what the assistant has to write itself. `template(name)` has no marks, `template(name, True)` has
those of transformers (`{% generation %}`), from which `apply_chat_template` makes its own mask: the second opinion.
"""

from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.data.text.conversation import InstructionRows
from sft_lightning.data.text.files import Table
from tests.networks.tiny import byte_bpe

ASK = "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THOUGHTS = (  # as Qwen3's: thoughts stay in the answers after the last question, and go from those before it
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}"
    "{%- endif %}{%- endfor %}"
)
TEMPLATES = {
    "chatml": "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n[[{{ m.content }}<|im_end|>]]\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}" + ASK,
    "chatml with a system prompt of its own": "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
    "{% endif %}{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n[[{{ m.content }}<|im_end|>]]\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}" + ASK,
    "llama 3": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'assistant' %}[[{{ m.content | trim }}<|eot_id|>]]{% else %}{{ m.content | trim }}<|eot_id|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "mistral": "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ (s if loop.last or loop.first else '') + m.content }} [/INST]"
    "{% else %}[[ {{ m.content | trim }}</s>]]{% endif %}{% endfor %}",
    "gemma": "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}<start_of_turn>model\n[[{{ m.content | trim }}<end_of_turn>]]\n"
    "{% else %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "qwen 3": THOUGHTS + "{%- for m in messages %}{%- set c = m.content if m.content is string else '' %}"
    "{%- if m.role == 'assistant' %}{%- set r = '' %}{%- if m.reasoning_content is string %}"
    "{%- set r = m.reasoning_content %}{%- elif '</think>' in c %}"
    "{%- set r = c.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set c = c.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n' }}[[{%- if loop.index0 > ns.last and (loop.last or r) %}"
    "{{- '<think>\n' + r.strip('\n') + '\n</think>\n\n' }}{%- endif %}{{- c.lstrip('\n') }}"
    "{%- for t in m.tool_calls or [] %}{%- set f = t.function or t %}"
    "{{- '\n<tool_call>\n' + (f | tojson) + '\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>' }}]]{{- '\n' }}"
    "{%- elif m.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>\n' + c + '\n</tool_response><|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{%- endif %}{%- endfor %}" + ASK,
    "deepseek r1": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|Assistant|>[[{{ m.content.split('</think>')[-1] }}</s>]]"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
    "no generation prompt": "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}[[{{ m.content }}<|im_end|>]]{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}",
    "an end after the last answer alone": "{% for m in messages %}{% if m.role == 'assistant' %}<|Assistant|>"
    "[[{{ m.content }}{% if loop.last %}</s>{% endif %}]]{% else %}<|User|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>{% endif %}",
}
CONTROLS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]", "<start_of_turn>"]
CONTROLS += ["<end_of_turn>", "<|User|>", "<|Assistant|>"]
BEGINS = {"llama 3", "mistral", "gemma", "deepseek r1"}


def template(name: str, marked: bool = False) -> str:
    """The template of a family."""
    text = TEMPLATES[name]
    if not marked:
        return text.replace("[[", "").replace("]]", "")
    text = text.replace("]]\n", "]]{{ '\n' }}")  # a line break after a block is left out
    return text.replace("[[", "{% generation %}").replace("]]", "{% endgeneration %}")


_tokenizers: dict[str, Any] = {}


def tokenizer_for(name: str) -> Any:
    """A tokenizer with the family's template, made once."""
    if name not in _tokenizers:
        made = byte_bpe(bos=name in BEGINS, pad="<pad>")
        made.add_tokens(CONTROLS, special_tokens=True)
        made.chat_template = template(name)
        _tokenizers[name] = made
    return _tokenizers[name]


def read(tokenizer: Any, *rows: dict[str, Any], max_length: int | None = None) -> InstructionRows:
    """Rows as the product reads them, tokenised."""
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)}
    made = InstructionRows(Table("rows.jsonl", columns, lines=list(range(1, len(rows) + 1))))
    made.use(tokenizer, max_length)
    made.ready()
    return made


def attempt(tokenizer: Any, row: dict[str, Any]) -> tuple[InstructionRows | None, str]:
    """(the row as the product reads it, or None; what it said where it refused)."""
    try:
        return read(tokenizer, row), ""
    except UserError as error:
        return None, str(error)


def learned(rows: InstructionRows, row: int = 0) -> list[str]:
    """The parts of a row that the loss is on, decoded."""
    parts: list[list[int]] = []
    inside = 0
    for token, mark in zip(rows.ids[row].tolist(), rows.supervised[row].tolist(), strict=True):
        if mark and not inside:
            parts.append([])
        if mark:
            parts[-1].append(token)
        inside = mark
    return [rows.tokenizer.decode(part) for part in parts]


def second_opinion(name: str, messages: list[dict[str, Any]], **variables: Any) -> tuple[list[int], list[int]]:
    """(ids, mask) by transformers, from the template with marks; up to the last token of the last answer."""
    made = tokenizer_for(name).apply_chat_template(
        messages,
        chat_template=template(name, marked=True),
        return_assistant_tokens_mask=True,
        return_dict=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
        **variables,
    )
    ids, mask, places = list(made["input_ids"]), list(made["assistant_masks"]), made["offset_mapping"]
    for i in range(1, len(ids)):  # the mask ends inside the bytes of a last character that is several tokens
        mask[i] = int(mask[i] or (mask[i - 1] and places[i] == places[i - 1]))
    end = max(i for i, m in enumerate(mask) if m) + 1
    return ids[:end], mask[:end]
