"""Tiny random transformers folders with real tokenizers, trained on a few sentences: no hub, a second each."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "What is the capital of France? Paris is the capital of France.",
    "A film so dull that nobody laughed, not even once.",
    "Great acting, a clever story and lovely music!",
    "How many questions does one have to answer before lunch?",
    "One two three four five six seven eight nine ten.",
    "### User: ### Assistant: ### System: ### Instruction: ### Response: ### Input:",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
]
LETTERS = [chr(c) for c in range(32, 127)]
WORDPIECE = Path(__file__).with_name("wordpiece.json")
"""What `tokenizers` learned from SENTENCES once: each training breaks ties in another way"""


def wordpiece() -> Any:
    """As BERT's: lower-case, [CLS] … [SEP]."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizerFast

    words = json.loads(WORDPIECE.read_text(encoding="utf-8"))
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, vocab=tokenizer.get_vocab())


def byte_bpe(bos: bool = False, pad: str | None = None, template: str | None = None) -> Any:
    """As GPT-2's; `bos` makes it begin every text with <s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad,
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )
    made.chat_template = template
    return made


def unigram(pad: str | None = "<pad>", template: str | None = None) -> Any:
    """As SentencePiece's in Llama and T5: ▁ for spaces, and <s> first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=special, unk_token="<unk>", initial_alphabet=["\n", *LETTERS]
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token=pad,
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )
    made.chat_template = template
    return made


def t5_pieces() -> Any:
    """SentencePiece's unigram with </s> last, as in T5 and Marian."""

    from transformers import T5Tokenizer

    special = ["<pad>", "</s>", "<unk>"]
    found = json.loads(unigram().backend_tokenizer.to_str())["model"]["vocab"]
    words = [(word, 0.0) for word in special] + [(w, s) for w, s in found if w not in (*special, "<s>")]
    return T5Tokenizer(vocab=words, extra_ids=0, model_max_length=64)


def bart_pieces() -> Any:
    """Byte-level BPE with <s> first and </s> last, as in BART."""
    from tokenizers import processors

    made = byte_bpe(pad="<pad>")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return made


def asset(package: str) -> Path:
    """Folder of a package that carries weights, installed or in $SFT_ASSETS; the test is skipped without it."""
    found = importlib.util.find_spec(package)
    folders = [
        *(found.submodule_search_locations or () if found else ()),
        f"{os.environ.get('SFT_ASSETS', '')}/{package}",
    ]
    folder = next((Path(f) for f in folders if Path(f).is_dir()), None)
    if folder is None:
        pytest.skip(f"the package {package} is not installed")
    return folder


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**SMALL, "max_position_embeddings": 64},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 64},
    "roberta": {**SMALL, "max_position_embeddings": 66, "pad_token_id": 0, "type_vocab_size": 1},
    "xlm-roberta": {**SMALL, "max_position_embeddings": 66, "pad_token_id": 0, "type_vocab_size": 1},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2},
    "llama": {**SMALL, "max_position_embeddings": 64, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2},
}
HALVES = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2}
HALVES |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
CONFIGS |= {
    "t5": {**T5, "pad_token_id": 0, "eos_token_id": 1},
    "marian": {**HALVES, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1},
    "bart": {**HALVES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
    "mbart": {**HALVES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
TOKENIZERS = {
    "bert": wordpiece,
    "distilbert": wordpiece,
    "roberta": byte_bpe,
    "xlm-roberta": byte_bpe,
    "gpt2": byte_bpe,
    "llama": unigram,
    "t5": t5_pieces,
    "marian": t5_pieces,
    "bart": bart_pieces,
    "mbart": bart_pieces,
}


def tiny_folder(folder: Path, kind: str, head: str, labels: int = 3, tokenizer: Any = None, **settings: Any) -> str:
    """Writes a random model of `kind` with a head: 'sequence', 'tokens', 'choices', 'qa', 'lm', 'seq2seq', 'masked' or
    'none'; returns the folder.
    """
    import transformers as hf

    tokenizer = tokenizer or TOKENIZERS[kind]()
    if kind in ("roberta", "xlm-roberta") and tokenizer.pad_token is None:
        tokenizer.pad_token = "<pad>"
    settings = {"vocab_size": len(tokenizer), **CONFIGS.get(kind, {}), **settings}
    if kind == "marian":
        settings["decoder_vocab_size"] = settings["vocab_size"]
    if head in ("sequence", "tokens"):
        settings |= {
            "num_labels": labels,
            "pad_token_id": 2 if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        }
        settings.setdefault("id2label", {i: f"old{i}" for i in range(labels)})
    auto = {
        "sequence": hf.AutoModelForSequenceClassification,
        "tokens": hf.AutoModelForTokenClassification,
        "choices": hf.AutoModelForMultipleChoice,
        "qa": hf.AutoModelForQuestionAnswering,
        "lm": hf.AutoModelForCausalLM,
        "seq2seq": hf.AutoModelForSeq2SeqLM,
        "masked": hf.AutoModelForMaskedLM,
        "none": hf.AutoModel,
    }[head]
    torch.manual_seed(0)
    model = auto.from_config(hf.AutoConfig.for_model(kind, **settings))
    for parameter in model.parameters():  # large enough that differences show
        if parameter.ndim > 1 and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_GENERATION_PROMPT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
NO_END = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
FORGETFUL = (  # writes thoughts before the last answer only, as Qwen3's does
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think></think>\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
