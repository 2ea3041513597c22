"""models and ledger: what the registry holds, and how it came so, as plain tables."""

from annotary.config import LedgerConfig, ModelsConfig
from annotary.errors import RegistryError
from annotary.evaluation.figures import format_table
from annotary.evaluation.metrics import HEADLINE
from annotary.outage import naming_outages
from annotary.promotions import read_anchored_ledger, warn_of_planted
from annotary.registry import list_aliases, list_versions
from annotary.tracking import DATASET_HASH_TAG, KIND_TAG, SOURCE_TAG, connect

_SHORT_HASH = 12


@naming_outages()
def list_models(config: ModelsConfig) -> str:
    """List the versions of a registered model, newest first."""
    connect()
    aliases = list_aliases(config.model_name)
    rows: list[dict[str, object]] = [
        {
            "version": version.number,
            "aliases": ",".join(alias for alias, number in aliases.items() if number == version.number)
            or "-",
            "model": version.tags.get(KIND_TAG, "-").replace("_", " "),
            "macro-F1": float(version.tags.get(HEADLINE, "nan")),
            "dataset": f"{version.tags.get(SOURCE_TAG, '')} "
            f"{version.tags.get(DATASET_HASH_TAG, '-')[:_SHORT_HASH]}".strip(),
            "date": version.created,
        }
        for version in list_versions(config.model_name)
    ]
    if not rows:
        raise RegistryError(
            f"registered model {config.model_name!r}",
            expected="versions",
            found="none",
            remedy="Run annotary evaluate.",
        )
    return format_table(rows)


@naming_outages()
def list_promotions(config: LedgerConfig) -> str:
    """List a model's promotions, oldest first, after checking their chain.

    Raises
    ------
    LedgerError
        Naming the first link that does not hold.
    """
    connect()
    ledger = read_anchored_ledger(config.model_name)
    warn_of_planted(ledger)
    rows: list[dict[str, object]] = [
        {
            "entry": entry.number,
            "time": entry.time,
            "user": entry.user,
            "from": entry.decision.before or "-",
            "to": entry.decision.after or "-",
            "candidate": entry.decision.candidate or "-",
            "what": entry.decision.action,
            "hash": entry.hash[:_SHORT_HASH],
            "why": entry.decision.reason,
        }
        for entry in ledger.entries
    ]
    if not rows:
        return "no entries yet"
    return f"{format_table(rows)}\n{len(rows)} entries, every link holds"
