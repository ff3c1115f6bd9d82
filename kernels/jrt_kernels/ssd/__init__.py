"""State space duality, the recurrence of Mamba-2: arXiv 2405.21060, section 6."""
