"""Gated linear attention: arXiv 2312.06635, section 4."""
