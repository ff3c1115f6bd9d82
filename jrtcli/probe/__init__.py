"""Synthetic probes of recall: set disjointness and multi-query associative recall, on models of this tool.

The paper's section 3.1, Figure 2 and appendix B.1. Everything here returns rows and prints nothing.
"""
