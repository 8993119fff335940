"""A tiny tokenizer of every family, of transformers' own classes where these can be made from a few sentences."""

import json
from collections.abc import Callable
from typing import Any

from tests.networks.tiny import LETTERS, SENTENCES, byte_bpe, unigram, wordpiece


def _model(tokenizer: Any) -> dict[str, Any]:
    """Its words, as tokenizers writes them."""
    return dict(json.loads(tokenizer.to_str())["model"])


def bert() -> Any:
    """WordPiece, lower-case, [CLS] … [SEP]."""
    made = wordpiece()
    made.eos_token = "[SEP]"
    return made


def fixed_words() -> Any:
    """WordPiece whose words are given: training one breaks ties in another way in each process."""
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({c.lower() for c in LETTERS if not c.isspace()})
    words = sorted({w.strip(".,!?") for text in SENTENCES[:6] for w in text.lower().split()} - set(letters))
    vocabulary = [*special, *letters, *(f"##{c}" for c in letters), *words]
    return BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, model_max_length=64)


def gpt2() -> Any:
    """Byte-level BPE, where one token is beginning, end and unknown, and none of them begins a text."""
    from transformers import GPT2Tokenizer

    words = _model(byte_bpe().backend_tokenizer)
    end = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}
    return GPT2Tokenizer(vocab=words["vocab"], merges=[tuple(m) for m in words["merges"]], **end, model_max_length=64)


def llama3() -> Any:
    """Byte-level BPE with <s> first."""
    return byte_bpe(bos=True)


def llama() -> Any:
    """SentencePiece's BPE: ▁ for spaces, bytes for what is unknown, <s> first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=special, initial_alphabet=["▁", *LETTERS])
    tokenizer.train_from_iterator(SENTENCES, trainer)
    words = _model(tokenizer)
    return LlamaTokenizer(
        vocab=words["vocab"], merges=[tuple(m) for m in words["merges"]], add_bos_token=True, model_max_length=64
    )


def mistral() -> Any:
    """SentencePiece's unigram with <s> first."""
    return unigram(pad=None)


def t5() -> Any:
    """SentencePiece's unigram with </s> last, and all white space one."""
    from transformers import T5Tokenizer

    special = ["<pad>", "</s>", "<unk>"]
    found = [(word, score) for word, score in _model(unigram().backend_tokenizer)["vocab"]]
    words = [(word, 0.0) for word in special] + [(w, s) for w, s in found if w not in (*special, "<s>")]
    return T5Tokenizer(vocab=words, extra_ids=0, model_max_length=64)


FAMILIES: dict[str, Callable[[], Any]] = {
    "WordPiece, BERT": bert,
    "byte-level BPE, GPT-2": gpt2,
    "byte-level BPE with BOS, Llama 3": llama3,
    "SentencePiece BPE, Llama": llama,
    "SentencePiece unigram with BOS": mistral,
    "SentencePiece unigram, T5": t5,
}
BEGINS = {"byte-level BPE with BOS, Llama 3", "SentencePiece BPE, Llama", "SentencePiece unigram with BOS"}
"""Those that begin a text with a token of its own."""


def tokenizer(family: str, side: str, pads_with_eos: bool) -> Any:
    """With padding on this side, by the end token or by one that stands for nothing else."""
    made = FAMILIES[family]()
    made.padding_side = made.init_kwargs["padding_side"] = side  # the latter is what a saved folder says
    others = [made.pad_token, "<pad>", made.unk_token]
    made.pad_token = (
        made.eos_token
        if pads_with_eos
        else next(t for t in others if t is not None and t != made.eos_token and t in made.get_vocab())
    )
    return made
