"""Serves a run's or an export's answers over HTTP. Needs the extra `serve`."""
