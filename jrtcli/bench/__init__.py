"""Speed: kernels and models timed beside their peers, on one machine in one run, and checked while timed."""
