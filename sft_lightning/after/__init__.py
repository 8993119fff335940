"""Operations on finished runs that write runs: the path from the pretrained weights to the tuned ones."""
