"""Every name that annotary reads or writes in an AnnData object, once."""

# obs of a dataset file, made by `preprocess`
LABEL = "label"
SPLIT = "split"
FOLD = "fold"
SOURCE = "source"
GROUP = "group"
LANE = "lane"
DEPTH = "total_counts"
N_GENES = "n_genes_by_counts"
PCT_MITO = "pct_counts_mt"
DOUBLET = "doublet"
DOUBLET_PROBABILITY = "doublet_probability"
DOUBLET_KEPT = "doublet_kept"

# var of a dataset file
IN_PANEL = "in_panel"
FEATURE_TYPES = "feature_types"
GENE_EXPRESSION = "Gene Expression"

# sides of a split
TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
SIDES = (TRAIN, VALIDATION, TEST)

# what `score` adds to a file
PREDICTED_LABELS = "predicted_labels"
CONF_SCORE = "conf_score"
LOW_INFORMATION = "annotary_low_information"
QUALITY = "annotary_quality"
UNASSIGNED = "annotary_unassigned"
OOD = "annotary_ood"
OOD_SCORE = "annotary_ood_score"
PROBABILITIES = "annotary_probabilities"
OVER_CLUSTERING = "over_clustering"
MAJORITY_VOTING = "majority_voting"
ONTOLOGY_TERM = "cell_type_ontology_term_id"
PREDICTION_SETS = "annotary_prediction_sets"

# uns: the record of a dataset file and of an annotated file
RECORD = "annotary"

# where raw counts are looked for
COUNTS_LAYER = "counts"
