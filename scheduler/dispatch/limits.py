"""Limits and name patterns of the agents' protocol; both sides check them."""

from __future__ import annotations

import re

ATTEMPT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
GPU_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9/_.-]{0,95}")
LABEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,126}")
FLAVOR = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")

MAX_BUNDLE_BYTES = 8 * 1024 * 1024
"""Largest uploaded bundle [bytes]: code, not data; data sets are staged apart."""
MAX_COMMAND_ARGS = 1024
"""Arguments of a command: far above any real launcher's, below the kernel's own limit."""
MAX_ENV_ENTRIES = 256
"""Environment variables of a tenant: with 64 KiB each still a bounded message."""
MAX_OUTPUT_GLOBS = 64
"""Patterns of files to keep per job: each is one walk over the scratch directory."""
MAX_OUTPUT_FILES = 1_000
"""Files kept per rank: outputs are results, not a file system."""
MAX_RANKS_PER_NODE = 64
"""Ranks of one attempt on one node: one per GPU of the largest node, with room."""
MAX_CPUS_PER_RANK = 8_192
"""CPUs of one rank: as many as Linux is built for at most (NR_CPUS)."""
MAX_WORLD_SIZE = 16_384
"""Ranks of one attempt: above the GPUs of the whole machine."""
MAX_GPUS_PER_NODE = 1_024
"""GPUs or MIG slices of one node: 16 GPUs x 7 slices, with room."""
MAX_WALLTIME_S = 366 * 24 * 3600
"""Longest walltime [s]: a year."""
MAX_KILL_WAIT_S = 24 * 3600
"""Longest wait between the stop signal and the kill [s]: a day."""
MAX_LOG_PAGE_BYTES = 1024 * 1024
"""Largest page of a log [bytes]: one answer held in memory."""
MAX_WAIT_S = 30
"""Longest long poll [s]: below the idle time-out of common proxies."""
MAX_EVENTS_PER_PAGE = 1_000
"""Events in one answer: a page stays far below a megabyte."""
MAX_ATTEMPTS = 100_000
"""Attempts an agent keeps on record: far above a node's year."""
MAX_INT = 2**63 - 1
"""Largest integer of a message: a signed 64-bit word."""
MAX_LABELS = 64
"""Labels of a node: topology and hardware, with room."""
