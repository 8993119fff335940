"""A bidirectional LSTM on word embeddings: a text network that learns from the training texts alone."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.small import SmallNetwork
from sft_lightning.networks.transforms import Transform
from sft_lightning.networks.weights import read_state_dict, resolve

PAD, UNKNOWN, BETWEEN = 0, 1, 2
WORDS = "_extra_state"
WORD = re.compile(r"\w+|[^\w\s]")


class WordTokenizer:
    """Turns lower-case words and single marks into numbers; its interface is that of transformers tokenizers.

    Args:
        size: Size of the vocabulary, including three special words.
        min_count: How often a word must occur to be learned.
    """

    pad_token_id = PAD
    padding_side = "right"

    def __init__(self, size: int, min_count: int) -> None:
        self.size, self.min_count = size, min_count
        self.set_words([])

    @property
    def fitted(self) -> bool:
        return bool(self.words)

    def fit(self, texts: Iterable[str]) -> None:
        """Learns the most frequent words. The alphabet breaks ties, so that every rank learns the same words."""
        counts = Counter(w for text in texts for w in WORD.findall(text.lower()))
        known = sorted((w for w, n in counts.items() if n >= self.min_count), key=lambda w: (-counts[w], w))
        self.set_words(known[: self.size - 3])
        if not known:
            raise UserError(
                "network.min_count", f"no word occurs {self.min_count} times in the training texts", "lower it"
            )

    def set_words(self, words: Sequence[str]) -> None:
        """Numbers the words from 3. Other words change `state`, so that cached texts are tokenised again."""
        self.words = {w: i for i, w in enumerate(words, 3)}
        self.state = crc32("\n".join(words).encode())

    def __call__(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        **_: Any,
    ) -> dict[str, list[list[int]]]:
        if not self.fitted:
            raise UserError("network", "LSTM has no words yet", "train it, or load a checkpoint or pretrained weights")
        rows = [self._numbers(t) for t in texts]
        if pairs is not None:
            rows = [[*row, BETWEEN, *self._numbers(pair)] for row, pair in zip(rows, pairs, strict=True)]
        return {"input_ids": [row[:max_length] if truncation else row for row in rows]}

    def _numbers(self, text: str) -> list[int]:
        return [self.words.get(w, UNKNOWN) for w in WORD.findall(text.lower())] or [UNKNOWN]


class Recurrent(nn.Module):
    """Embedding and LSTM; a text's vector is the maximum over its words in each dimension: `[B, D]`."""

    def __init__(self, rows: int, width: int, hidden: int, layers: int, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, width, padding_idx=PAD)
        self.lstm = nn.LSTM(
            width, hidden, layers, batch_first=True, bidirectional=bidirectional, dropout=dropout if layers > 1 else 0.0
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(
            self.dropout(self.embedding(ids)), lengths, batch_first=True, enforce_sorted=False
        )
        hidden, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=ids.shape[1])
        hidden = hidden.masked_fill(mask[:, :, None] == 0, float("-inf"))
        features: Tensor = self.dropout(hidden.amax(1))
        return features


class LSTM(SmallNetwork):
    """A (bidirectional) LSTM that starts from random weights, or from our own export of one.

    It learns its words from the training texts; checkpoints and exports hold them.

    Args:
        task: What is predicted; given by the module.
        vocabulary_size: Size of the vocabulary in words, including three special ones.
        min_count: How often a word must occur in the training texts to be learned.
        embedding_dim: Width of the word embeddings.
        hidden: Units of each layer, in each direction.
        layers: Number of LSTM layers.
        bidirectional: Read the text from both ends.
        dropout: Probability of dropping a unit: of the embeddings, between layers, and of the text's vector.
        max_length: Most words of a text that the network reads.
        pretrained: Where weights and words come from: a run directory or an export folder; null for random ones.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    def __init__(
        self,
        task: TaskInfo,
        vocabulary_size: int = 20_000,
        min_count: int = 2,
        embedding_dim: int = 128,
        hidden: int = 128,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.3,
        max_length: int = 256,
        pretrained: str | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        sizes = {"embedding_dim": embedding_dim, "hidden": hidden, "layers": layers, "bidirectional": bidirectional}
        self.sizes = {"vocabulary_size": vocabulary_size, **sizes, "max_length": max_length}
        for name, value, least in (
            *((n, v, 1) for n, v in sizes.items() if n != "bidirectional"),
            *(("vocabulary_size", vocabulary_size, 4), ("min_count", min_count, 1), ("max_length", max_length, 1)),
        ):
            if value < least:
                raise UserError(f"network.{name}", f"must be at least {least}, got {value}")
        if not 0.0 <= dropout < 1.0:
            raise UserError("network.dropout", f"must be in [0, 1), got {dropout}")
        self.max_length, self.tokenizer = max_length, WordTokenizer(vocabulary_size, min_count)
        encoder = Recurrent(vocabulary_size, embedding_dim, hidden, layers, bidirectional, dropout)
        if pretrained is not None:
            self._take_words(pretrained)
        self.start_from(pretrained, keep_source_head, encoder, hidden * (2 if bidirectional else 1))
        if pretrained is not None and not self.tokenizer.fitted:
            raise UserError(
                "network.pretrained", f"{pretrained} has no words, so it is not an export of LSTM", "choose one"
            )

    def _take_words(self, pretrained: str) -> None:
        """Loads the words of an export, because `start_from` compares all its shapes with the network's."""
        source = resolve(pretrained)
        path = source.file or (source.folder / "model.safetensors" if source.folder else None)
        if path is not None and path.is_file() and (words := read_state_dict(path).get(WORDS)) is not None:
            self.set_extra_state(words)

    def own_layers(self) -> list[tuple[str, list[str]]]:
        """The embedding, then each layer of the LSTM with both its directions."""
        groups: dict[str, list[str]] = {}
        for name in self.encoder_parameters():
            found = re.search(r"_(l\d+)(?:_reverse)?$", name)
            groups.setdefault(found[1] if found else "embedding", []).append(name)
        return list(groups.items())

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec("text", tokenizer=self.tokenizer, max_length=self.max_length)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, D]`"""
        features: Tensor = self.encoder(x["input_ids"], x["attention_mask"])
        return features

    def get_extra_state(self) -> Tensor:
        """The words as a tensor of bytes, which safetensors takes, so that checkpoints need no Python objects."""
        return torch.frombuffer(bytearray("\n".join(self.tokenizer.words).encode() or b"\n"), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.tokenizer.set_words(bytes(state.cpu().numpy()).decode().split("\n") if len(state) > 1 else [])

    def export_config(self) -> dict[str, object]:
        return dict(self.sizes)
