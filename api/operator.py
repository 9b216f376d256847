"""The operator's token of this machine: made once, kept in a 0600 file, made anew when it no longer works."""

from __future__ import annotations

import os

from sqlalchemy import Engine, select

from store import clock, journal
from store.engine import transaction
from store.settings import Settings
from tenants.access import BOOTSTRAP_LIFETIME_S, BOOTSTRAP_USER, authenticate, bootstrap_operator, issue_token
from tenants.errors import AuthenticationError
from tenants.model import Scope, UserId
from tenants.tables import UserRow


class NoOperatorError(RuntimeError):
    """The platform has users but none named like the first operator; its operators issue tokens themselves."""


def operator_token(engine: Engine, settings: Settings) -> str:
    """Return the secret of this machine's operator token, issuing one where there is none that works.

    Raises:
        NoOperatorError: when the first operator was removed.
    """
    kept = settings.secrets_dir / "operator.token"
    at = clock.now()
    with transaction(engine) as session:
        if kept.exists():
            secret = kept.read_text().strip()
            try:
                authenticate(session, secret, at)
            except AuthenticationError:
                kept.unlink()
            else:
                return secret
        issued = bootstrap_operator(session, at)
        if issued is None:
            user_id = session.scalar(select(UserRow.id).where(UserRow.name == BOOTSTRAP_USER))
            if user_id is None:
                raise NoOperatorError(
                    f"no user {BOOTSTRAP_USER!r}; ask one of the platform's operators for a token of your own"
                )
            issued = issue_token(
                session,
                UserId(user_id),
                scopes=[Scope.ADMIN],
                lifetime_s=BOOTSTRAP_LIFETIME_S,
                actor=journal.SYSTEM,
                at=at,
            )
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(issued.secret + "\n")
    return issued.secret
