"""The selective scan of Mamba-1: arXiv 2312.00752, section 3 and algorithm 2."""
