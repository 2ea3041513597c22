"""Reading formats, validating counts, genes, labels, splits, and writing files whole."""
