"""rollback: the alias champion returns to the version that had it before."""

from annotary.config import RollbackConfig
from annotary.errors import BundleError, RegistryError
from annotary.ledger import ROLLED_BACK, Decision, Ledger
from annotary.log import say, warn
from annotary.promotions import anchor, append, catch_up, describe_hashes, settle
from annotary.registry import RegisteredVersion, get_version
from annotary.tracking import stage_run
from annotary.version_check import fetch_checked

_BY_HAND = "asked for with annotary rollback"


def rollback(config: RollbackConfig) -> RegisteredVersion:
    """Return to the champion before; again, to the one before that.

    A version that was deleted, or whose files were altered, is passed over.

    Returns
    -------
    The champion afterwards.

    Raises
    ------
    RegistryError
        If there was no champion before.
    """
    with stage_run("rollback", config) as run:
        asked = catch_up(config.model_name)
        ledger = asked
        while ledger.champion == asked.champion:
            before = _find_before(ledger)
            decision = Decision(
                action=ROLLED_BACK,
                before=ledger.champion,
                after=before.number,
                reason=config.reason or _BY_HAND,
                hashes=describe_hashes(before),
                run_id=run.run_id,
            )
            if append(ledger, decision):
                anchor(config.model_name, settle(config.model_name))
                say(f"champion is version {before.number} again, instead of {ledger.champion or 'none'}")
                return before
            ledger = catch_up(config.model_name)
        raise RegistryError(
            f"registered model {config.model_name!r}",
            expected=f"version {asked.champion} to be champion until it is rolled back",
            found=f"version {ledger.champion}, which another process made champion meanwhile",
            remedy="Look at annotary ledger, then roll back again if that one must go too.",
        )


def _find_before(ledger: Ledger) -> RegisteredVersion:
    """Find the version that a rollback returns to: the newest whose files are those that were registered."""
    for number in ledger.list_before():
        version = get_version(ledger.name, number)
        try:
            fetch_checked(version)
        except BundleError as error:
            warn(f"version {number} is passed over: {error}")
            continue
        return version
    before = ledger.list_before()
    raise RegistryError(
        f"registered model {ledger.name!r}",
        expected="a champion before the present one"
        + (", with files as they were registered" if before else ""),
        found=", ".join(f"version {number}, altered" for number in before)
        or (f"version {ledger.champion} alone" if ledger.champion else "no champion yet"),
        remedy="Set the alias champion in MLflow's UI, or promote another version.",
    )
