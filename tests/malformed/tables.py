"""Cell and gene tables: ids, labels, feature types."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack

from malformed.cases import (
    N_CELLS,
    N_GENES,
    accepted,
    clean,
    edited,
    label_names,
    refused,
    replace_element,
    with_labels,
    write,
    write_labels,
)

_FIRST = np.arange(N_CELLS) < 9
"""Cells without a label in the cases that have some."""


def labels() -> np.ndarray:
    return clean().obs["cell_type"].to_numpy(dtype=object)


def without_first() -> anndata.AnnData:
    return clean()[~_FIRST].copy()


# Cell ids


@refused(
    "duplicate cell ids", place="obs", expected="different id|unique", found="2 .*'twin'", remedy="nique"
)
def duplicate_cells(folder: Path) -> Path:
    adata = clean()
    adata.obs_names = ["twin" if cell < 3 else name for cell, name in enumerate(adata.obs_names)]
    return write(folder, adata)


def with_cell_ids(ids: list[str]) -> anndata.AnnData:
    adata = clean()
    adata.obs_names = ids
    return adata


def unicode_cells() -> anndata.AnnData:
    return with_cell_ids([f"Zelle-ß-細胞-{cell}" for cell in range(N_CELLS)])


def numbered_cells() -> anndata.AnnData:
    return with_cell_ids([str(cell) for cell in range(N_CELLS)])


@accepted("unicode cell ids", twin=unicode_cells)
def unicode_cell_ids(folder: Path) -> Path:
    shuffled = np.random.default_rng(1).permutation(N_CELLS)
    return write(folder, unicode_cells()[shuffled].copy())


@accepted("numbers for cell ids", twin=numbered_cells)
def numbers_for_ids(folder: Path) -> Path:
    with edited(folder) as file:
        replace_element(file["obs"], "_index", np.arange(N_CELLS))
        file["obs/_index"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return folder / "cells.h5ad"


@accepted("byte strings for cell ids")
def bytes_for_ids(folder: Path) -> Path:
    with edited(folder) as file:
        replace_element(file["obs"], "_index", clean().obs_names.to_numpy(dtype="S"))
    return folder / "cells.h5ad"


@accepted("a named index")
def named_index(folder: Path) -> Path:
    adata = clean()
    adata.obs.index.name = "barcode"
    adata.var.index.name = "gene_symbols"
    return write(folder, adata)


for _name in ("obs", "var"):

    @refused(
        f"{_name} does not say which column is its index",
        place=_name,
        expected=r"\w",
        found="_index|index",
        remedy="[Cc]opy|[Ww]rite",
    )
    def no_index_attribute(folder: Path, name: str = _name) -> Path:
        with edited(folder) as file:
            del file[name].attrs["_index"]
        return folder / "cells.h5ad"

    @refused(
        f"the index column of {_name} is not there",
        place=_name,
        expected=r"\w",
        found="_index|index",
        remedy="[Cc]opy|[Ww]rite",
    )
    def no_index_column(folder: Path, name: str = _name) -> Path:
        with edited(folder) as file:
            del file[name]["_index"]
        return folder / "cells.h5ad"


@refused("label codes fewer than cells", place="cells.h5ad", expected=r"\w", found=r"\d|length", remedy=r"\w")
def ragged_obs(folder: Path) -> Path:
    with edited(folder) as file:
        replace_element(file["obs/cell_type"], "codes", file["obs/cell_type/codes"][:-5])
    return folder / "cells.h5ad"


@refused("label codes without a category", place="cells.h5ad", expected=r"\w", found=r"\w", remedy=r"\w")
def code_out_of_range(folder: Path) -> Path:
    with edited(folder) as file:
        file["obs/cell_type/codes"][4] = 99
    return folder / "cells.h5ad"


# Labels


@refused("no label column", place="obs", expected="column 'cell_type'", found="lane", remedy="--label-key")
def no_labels(folder: Path) -> Path:
    adata = clean()
    adata.obs = adata.obs.rename(columns={"cell_type": "lane"})
    return write(folder, adata)


@refused("no column in obs", place="obs", expected="column 'cell_type'", found="none", remedy="--label-key")
def no_columns(folder: Path) -> Path:
    adata = clean()
    del adata.obs["cell_type"]
    return write(folder, adata)


@refused("one class", place="obs", expected="two different labels", found="1 .*'B cell'", remedy="[Gg]ive")
def one_class(folder: Path) -> Path:
    return write_labels(folder, "B cell")


@refused(
    "a class of one cell",
    place="obs",
    expected="3 cells of each label",
    found="1 of 'Unicorn'",
    remedy="--min-cells-per-label",
)
def class_of_one(folder: Path) -> Path:
    return write_labels(folder, np.where(np.arange(N_CELLS) == 5, "Unicorn", labels()))


NO_LABEL = {"NaN": np.nan, "None": None, "text 'nan'": "nan", "blanks": "  ", "empty text": ""}

for _what, _value in NO_LABEL.items():

    @refused(
        f"labels all {_what}",
        place=r"obs\['cell_type'\]",
        expected="labels",
        found=f"none in {N_CELLS}",
        remedy="--label-key",
    )
    def all_missing(folder: Path, value: object = _value) -> Path:
        return write_labels(folder, pd.Categorical([value] * N_CELLS) if isinstance(value, str) else np.nan)

    @accepted(f"some labels {_what}", twin=without_first, says=("left out 9 cells: no label",))
    def some_missing(folder: Path, value: object = _value) -> Path:
        values = labels()
        values[_FIRST] = value
        return write_labels(folder, pd.Categorical(values))


@accepted("label with a slash", twin=None, check=label_names("B cell", "NK cell", "T cell/CD4+ T\\x"))
def slash(folder: Path) -> Path:
    return write_labels(folder, np.where(labels() == "T cell", "T cell/CD4+ T\\x", labels()))


@accepted("label column with a slash in its name", options=("--label-key", "cell/type"))
def slash_in_column(folder: Path) -> Path:
    adata = clean()
    adata.obs["other"] = adata.obs.pop("cell_type")
    with edited(folder, adata) as file:
        file.move("obs/other", "obs/cell/type")
        file["obs"].attrs["column-order"] = np.array(["cell/type"], dtype=object)
    return folder / "cells.h5ad"


@accepted("unicode labels", twin=None, check=label_names("B cell", "NK cell", "γδ T-Zelle «細胞»"))
def unicode_labels(folder: Path) -> Path:
    return write_labels(folder, np.where(labels() == "T cell", "γδ T-Zelle «細胞»", labels()))


@accepted(
    "labels with quotes, commas and tabs", twin=None, check=label_names('"B",\tcell', "NK cell", "T cell")
)
def awkward_labels(folder: Path) -> Path:
    return write_labels(folder, np.where(labels() == "B cell", '"B",\tcell', labels()))


@accepted("labels with blanks around them")
def blanks(folder: Path) -> Path:
    return write_labels(folder, np.where(np.arange(N_CELLS) % 2 == 0, labels(), " " + labels() + "  "))


@accepted("labels as plain strings, not categories")
def plain_strings(folder: Path) -> Path:
    with edited(folder) as file:
        del file["obs/cell_type"]
        anndata.io.write_elem(file["obs"], "cell_type", labels())
    return folder / "cells.h5ad"


@accepted("categories that no cell has")
def unused_categories(folder: Path) -> Path:
    return write_labels(folder, pd.Categorical(labels(), categories=[*sorted(set(labels())), "Unicorn"]))


@accepted("ordered categories in another order")
def ordered_categories(folder: Path) -> Path:
    names = sorted(set(labels()), reverse=True)
    return write_labels(folder, pd.Categorical(labels(), categories=names, ordered=True))


@accepted("boolean labels", twin=None, check=label_names("False", "True"))
def boolean_labels(folder: Path) -> Path:
    return write_labels(folder, labels() == "B cell")


_CODES = {"B cell": 0, "NK cell": 7, "T cell": 12}


def numbered_labels() -> anndata.AnnData:
    return with_labels([str(_CODES[name]) for name in labels()])


@accepted("integer labels", twin=numbered_labels)
def integer_labels(folder: Path) -> Path:
    return write_labels(folder, [_CODES[name] for name in labels()])


def numbered_without_first() -> anndata.AnnData:
    return numbered_labels()[~_FIRST].copy()


@accepted("integer labels, some missing", twin=numbered_without_first, says=("left out 9 cells: no label",))
def nullable_labels(folder: Path) -> Path:
    values = pd.array([_CODES[name] for name in labels()], dtype="Int64")
    values[_FIRST] = pd.NA
    return write_labels(folder, values)


@accepted(
    "integer labels as floats, some missing",
    twin=None,
    check=label_names("0.0", "12.0", "7.0"),
    says=("left out 9 cells: no label",),
)
def float_labels(folder: Path) -> Path:
    values = np.array([_CODES[name] for name in labels()], dtype=float)
    values[_FIRST] = np.nan
    return write_labels(folder, values)


# Genes


def _merged(adata: anndata.AnnData, names: list[str]) -> anndata.AnnData:
    """Add up the columns of the same name."""
    codes, unique = pd.factorize(np.array(names, dtype=object))
    sums = csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)))
    return anndata.AnnData(csr_matrix(adata.X @ sums), obs=adata.obs, var=pd.DataFrame(index=unique))


def _repeated() -> list[str]:
    return ["TBCE" if gene in (4, 90, 91) else name for gene, name in enumerate(clean().var_names)]


def merged_symbols() -> anndata.AnnData:
    return _merged(clean(), _repeated())


@accepted("duplicate gene symbols, added up", twin=merged_symbols)
def duplicate_symbols(folder: Path) -> Path:
    adata = clean()
    adata.var_names = _repeated()
    return write(folder, adata)


def _ensembl(versions: bool) -> list[str]:
    genes = [gene - 1 if gene in (5, 91) else gene for gene in range(N_GENES)]
    return [f"ENSG{gene:011d}" + (f".{place % 9}" if versions else "") for place, gene in enumerate(genes)]


def merged_ensembl() -> anndata.AnnData:
    return _merged(clean(), _ensembl(versions=False))


@accepted("Ensembl ids with versions", twin=merged_ensembl)
def ensembl_versions(folder: Path) -> Path:
    adata = clean()
    adata.var_names = _ensembl(versions=True)
    return write(folder, adata)


def unicode_genes() -> anndata.AnnData:
    adata = clean()
    adata.var_names = [f"基因-µ{gene}" for gene in range(N_GENES)]
    return adata


@accepted("unicode gene ids", twin=unicode_genes)
def unicode_gene_ids(folder: Path) -> Path:
    return write(folder, unicode_genes()[:, ::-1].copy())


def numbered_genes() -> anndata.AnnData:
    adata = clean()
    adata.var_names = [str(gene) for gene in range(N_GENES)]
    return adata


@accepted("numbers for gene ids", twin=numbered_genes)
def numbers_for_genes(folder: Path) -> Path:
    with edited(folder) as file:
        replace_element(file["var"], "_index", np.arange(N_GENES))
        file["var/_index"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return folder / "cells.h5ad"


def _with_antibodies(values: np.ndarray) -> anndata.AnnData:
    """Put antibodies among the genes, ``values`` being ``(N_CELLS, n_antibodies)``."""
    n = values.shape[1]
    var = pd.DataFrame(
        {"feature_types": ["Antibody Capture"] * n + ["Gene Expression"] * N_GENES},
        index=[f"CD{antibody}" for antibody in range(n)] + list(clean().var_names),
    )
    return anndata.AnnData(hstack([csr_matrix(values), clean().X], format="csr"), obs=clean().obs, var=var)


@accepted("antibodies among the genes")
def antibodies(folder: Path) -> Path:
    return write(folder, _with_antibodies(np.full((N_CELLS, 4), 1000, dtype=np.float32)))


@accepted("antibodies with values that are no counts")
def normalised_antibodies(folder: Path) -> Path:
    return write(folder, _with_antibodies(np.full((N_CELLS, 4), -0.5, dtype=np.float32)))


@refused(
    "features that are no genes",
    place="feature_types",
    expected="Gene Expression",
    found="Peaks",
    remedy="ene",
)
def peaks(folder: Path) -> Path:
    adata = clean()
    adata.var["feature_types"] = "Peaks"
    return write(folder, adata)


@accepted("feature types as plain strings")
def plain_feature_types(folder: Path) -> Path:
    adata = clean()
    with edited(folder, adata) as file:
        anndata.io.write_elem(
            file["var"], "feature_types", np.array(["Gene Expression"] * N_GENES, dtype=object)
        )
        file["var"].attrs["column-order"] = np.array(["feature_types"], dtype=object)
    return folder / "cells.h5ad"


@refused(
    "genes that too few cells express", place=": X", expected="10 cells", found="none", remedy="--min-cells"
)
def rare_genes(folder: Path) -> Path:
    counts = np.zeros((N_CELLS, 25 * N_CELLS), dtype=np.float32)
    for cell in range(N_CELLS):
        counts[cell, 25 * cell : 25 * cell + 25] = 1
    return write(folder, anndata.AnnData(csr_matrix(counts), obs=clean().obs))
