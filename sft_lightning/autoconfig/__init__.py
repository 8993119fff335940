"""The front door: a network and some data become the default study."""
