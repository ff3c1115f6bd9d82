"""JRT-RNN's linear attention: a non-causal sum over the encoder region beside the causal one."""
