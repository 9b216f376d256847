"""Dispatch: how a decided attempt reaches the nodes, and how facts about it come back.

`wire` holds the messages, `executor` the protocol and its HTTP client, `fake` an in-memory
executor held to the same contract, `raylocal` and `agents` the local Ray cluster and the
bootstrap of the agents on it.
"""
