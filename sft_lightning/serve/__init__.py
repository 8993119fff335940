"""Answers samples with a run's or an export's network, to files and over HTTP. HTTP needs the extra `serve`."""
