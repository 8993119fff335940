"""A tokenizer that learns its pieces from the training texts: byte-level BPE, which can write any text."""

from collections.abc import Iterable
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError

TRAIN = "train"
"""The value of `network.tokenizer` that asks for a learned one"""
PAD, END = "<pad>", "</s>"
LEAST = 256 + 2  # bytes, and the special tokens


class LearnedTokenizer(nn.Module):
    """Byte-level BPE (Sennrich et al. 2016) of lower and upper case, with an end token after each text.

    It is a module so that checkpoints hold the pieces, and it behaves as the transformers tokenizer that `save_pretrained`
    writes. The same texts give the same pieces in each process, since ties are broken by the pieces' numbers.

    Args:
        size: Most pieces, including the 256 bytes and two special ones.
    """

    pad_token_id, eos_token_id, bos_token_id = 0, 1, None
    padding_side = "right"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.made: Any = None
        """The transformers tokenizer; None before training"""
        self.said = ""
        """The pieces, as `tokenizers` writes them in JSON"""

    @property
    def state(self) -> int:
        """Differs if the pieces do."""
        return crc32(self.said.encode())

    @property
    def fitted(self) -> bool:
        return self.made is not None

    @property
    def model_max_length(self) -> int:
        """No limit of its own."""
        return 1 << 60

    def fit(self, texts: Iterable[str]) -> None:
        """Learns the pieces. A pair that occurs once is not joined."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, 1)]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=self.size,
            special_tokens=[PAD, END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            min_frequency=2,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        self.take(tokenizer.to_str())

    def take(self, said: str) -> None:
        """Takes over the pieces that `tokenizers` wrote as JSON."""
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        self.said = said
        self.made = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(said),
            pad_token=PAD,
            eos_token=END,
            model_input_names=["input_ids", "attention_mask"],
            clean_up_tokenization_spaces=False,
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Tokens of texts, as transformers tokenizers give them."""
        return self._ready()(*args, **kwargs)

    def _ready(self) -> Any:
        if self.made is None:
            raise UserError(
                "network.tokenizer", "has not been trained yet", "train the network, or load a checkpoint of it"
            )
        return self.made

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return 2 if pair else 1

    def get_vocab(self) -> dict[str, int]:
        return dict(self._ready().get_vocab())

    def batch_decode(self, ids: Any, **kwargs: Any) -> list[str]:
        return list(self._ready().batch_decode(ids, **kwargs))

    def save_pretrained(self, folder: str) -> None:
        self._ready().save_pretrained(folder)

    def get_extra_state(self) -> Tensor:
        """The pieces as a tensor of bytes, so that checkpoints need no Python objects; one byte 0 before training."""
        return torch.frombuffer(bytearray(self.said.encode() or b"\0"), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        if len(state) > 1:
            self.take(bytes(state.cpu().numpy()).decode())


def with_vocabulary(config: Any, pretrained: str | None, size: int | None) -> dict[str, Any]:
    """A transformers configuration with the sizes and special tokens of a learned tokenizer.

    Raises UserError unless there are plain settings of a model with random weights, and a size.
    """
    if pretrained is not None:
        raise UserError(
            "network.tokenizer", "train would give pretrained weights other tokens than theirs", "leave it out"
        )
    if not isinstance(config, dict):
        raise UserError(
            "network.config",
            "must have the model's settings, because tokenizer is train",
            "set it to {model_type: t5, d_model: 128, …}, or to those of marian or bart",
        )
    if size is None or size < LEAST:
        raise UserError(
            "network.vocabulary_size",
            f"must be at least {LEAST} (each byte, and two special tokens), got {size}",
            "set it, for example to 4000",
        )
    from transformers import CONFIG_MAPPING, AutoConfig

    numbers = {"vocab_size": size, "decoder_vocab_size": size, "pad_token_id": 0, "decoder_start_token_id": 0}
    numbers |= {"eos_token_id": 1, "forced_eos_token_id": 1, "bos_token_id": 1}
    if (twice := next((name for name in numbers if name in config), None)) is not None:
        raise UserError(f"network.config.{twice}", "follows from tokenizer train", "leave it out")
    kind = str(config.get("model_type"))
    plain = AutoConfig.for_model(kind) if kind in CONFIG_MAPPING else None
    return {**config, **{name: number for name, number in numbers.items() if hasattr(plain, name)}}
