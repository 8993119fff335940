"""Language modelling: predicts the next token of a text."""

from sft_lightning.tasks.next_token import NextToken


class CausalLM(NextToken):
    """`logits[N, V]` at the N positions whose next token `y[N]` is supervised."""

    name = "causal_lm"
