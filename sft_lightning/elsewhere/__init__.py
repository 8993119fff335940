"""Code for a fresh process in which another library answers from an export folder.

It imports nothing else of this package, except to load a `safetensors` folder.
"""
