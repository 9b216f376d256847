"""The node agent: owns one node's GPUs, starts ranks through shepherds, keeps what they leave.

`shepherd`, `confine` and `harvest` run beside each rank in an interpreter without site packages:
they use the standard library only. The rest is the agent itself.
"""
