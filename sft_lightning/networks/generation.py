"""Generation of texts by models of transformers, without random draws."""

from typing import Any

from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.sharding.tensors import is_sharded


class Generation:
    """The settings of a search for the most likely text.

    Args:
        max_new_tokens: Most tokens of a generated text.
        num_beams: Beams of the search; 1 takes the most likely token each time.
    """

    def __init__(self, max_new_tokens: int, num_beams: int) -> None:
        for name, value in (("max_new_tokens", max_new_tokens), ("num_beams", num_beams)):
            if value < 1:
                raise UserError(f"network.{name}", f"must be at least 1, got {value}")
        self.max_new_tokens, self.num_beams = max_new_tokens, num_beams

    def settings(self, tokenizer: Any) -> Any:
        """Transformers' settings. For a decoder alone, a model's own are not used: they may draw tokens at random, and a least
        length would count the padding before a prompt, so that a text would depend on its batch (see `run`).
        """
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            num_beams=self.num_beams,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )

    def run(self, model: Any, inputs: dict[str, Tensor], settings: Any) -> Tensor:
        """Token ids `[B, T]` that the model generates, its prompt before them if it is a decoder alone."""
        if any(map(is_sharded, model.parameters())):
            raise UserError(
                "data.generate_samples",
                "texts cannot be generated with trainer.strategy fsdp2",
                "set it to 0, or use strategy ddp",
            )
        own = model.generation_config
        if not model.config.is_encoder_decoder:
            model.generation_config = type(own)()  # whose values transformers takes for all that `settings` leave open
        try:
            generated: Tensor = model.generate(**inputs, generation_config=settings)
        finally:
            model.generation_config = own
        return generated
