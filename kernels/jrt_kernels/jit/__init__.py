"""What the numba backends share: vectors of 16 lanes, the compiler with its cache, views of tensors."""
