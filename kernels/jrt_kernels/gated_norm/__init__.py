"""RMSNorm of each token, with an optional gate before or after it."""
