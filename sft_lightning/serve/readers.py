"""The readers of samples, by kind of a network's input."""

from sft_lightning.core.structures import InputSpec
from sft_lightning.serve.image_items import BoxReader, ImageReader, MaskReader
from sft_lightning.serve.items import Reader
from sft_lightning.serve.row_items import ChoiceReader, PairReader, PromptReader, QuestionReader
from sft_lightning.serve.sound_items import SoundReader, SpeechReader
from sft_lightning.serve.text_items import TextReader, WordReader

OF_TEXTS = (TextReader, WordReader, QuestionReader, ChoiceReader, PairReader, PromptReader)
READERS: dict[str, type[Reader]] = {
    reader.kind: reader for reader in (*OF_TEXTS, ImageReader, MaskReader, BoxReader, SoundReader, SpeechReader)
}


def reader_of(spec: InputSpec) -> type[Reader]:
    """The reader for a network's input."""
    return READERS[spec.kind]
