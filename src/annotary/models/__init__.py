"""Models: the protocol, the bundle, the baselines with their tuning, the transformer."""
