"""How much: quota policies, grants and the GPU-second ledger."""
