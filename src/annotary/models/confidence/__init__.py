"""What a model's confidence means: when to trust a label, which labels are plausible, what is new to it."""
