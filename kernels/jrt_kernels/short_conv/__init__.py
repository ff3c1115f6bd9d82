"""Causal depthwise convolution over a few tokens, with its last inputs as state."""
