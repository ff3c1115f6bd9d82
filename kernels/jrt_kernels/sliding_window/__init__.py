"""Softmax attention to the last few tokens, or to all, with keys and values as state."""
