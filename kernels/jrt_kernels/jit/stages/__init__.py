"""What one token is made of, stage by stage (jrt_kernels.jit.stage); strung together by
jrt_kernels.jit.plan.
"""
