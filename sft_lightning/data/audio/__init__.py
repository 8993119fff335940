"""Sounds: classes of sounds, and speech with transcripts."""
