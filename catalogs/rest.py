"""The REST catalog of pyiceberg, with a limit on how long an answer may take.

pyiceberg waits for ever: a server that takes a connection and never answers would hold a producer's
committing thread, and with it `close`. Here each request of the session has a deadline, the one for
a token too; a commit without an answer in time is an unknown outcome, which the head resolves.

**Tokens.** With ``credential``, pyiceberg fetches a token (OAuth2 client credentials) and, when a
request is answered with 401 or 419, a new one, and sends that request again, once. A request that
was refused has had no effect, so this repeats no commit. With ``auth`` (type ``oauth2``) it renews
the token before it expires. With ``token`` alone nothing can be renewed. Nothing else is sent
twice.
"""

from __future__ import annotations

from functools import partial

from pyiceberg.catalog.rest import RestCatalog
from requests import Session

from batchweave.store_clients import seconds

CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 30.0


class BoundedRestCatalog(RestCatalog):
    """pyiceberg's ``rest``. Properties of its own, in seconds: ``rest.connect-timeout`` (5) and
    ``rest.request-timeout`` (30), the longest silence of the server within one request.
    """

    def _config_headers(self, session: Session) -> None:
        # The one step of making a session that comes before its first request.
        super()._config_headers(session)
        connect_s = seconds(self.properties, "rest.connect-timeout", CONNECT_TIMEOUT_S)
        answer_s = seconds(self.properties, "rest.request-timeout", REQUEST_TIMEOUT_S)
        bounded = partial(session.request, timeout=(connect_s, answer_s))
        setattr(session, "request", bounded)  # noqa: B010 - a method; mypy refuses the assignment
