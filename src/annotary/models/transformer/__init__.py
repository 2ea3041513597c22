"""The self-attention network over gene and expression tokens."""
