"""A mail server that wants a login, for smtp.rs: aiosmtpd, which `./test` installs.

    mail_server.py HOST PORT [CERTIFICATE KEY] MAILBOX

With a certificate it takes nothing before STARTTLS, a login included. The headers of a mail in
the mailbox say how it came: X-Tls is the version of TLS or "none", X-Login is who logged in.
It ends with its standard input.
"""

import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import AuthResult


class RecordingMailbox(Mailbox):
    """Keeps mails, with how they came."""

    def prepare_message(self, session, envelope):
        message = super().prepare_message(session, envelope)
        message["X-Tls"] = session.ssl["ssl_object"].version() if session.ssl else "none"
        message["X-Login"] = session.auth_data.login.decode()
        return message


def check(server, session, envelope, mechanism, data):
    """Knows one user."""
    is_known = data.login == b"wims" and data.password == b"pass/word"
    return AuthResult(success=is_known, handled=False, auth_data=data)


def tls_context(certificate, key):
    """What the server shows to those who ask for STARTTLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


host, port, *certificate_and_key, mailbox = sys.argv[1:]
context = tls_context(*certificate_and_key) if certificate_and_key else None
controller = Controller(
    RecordingMailbox(mailbox),
    hostname=host,
    port=int(port),
    authenticator=check,
    auth_required=True,
    auth_require_tls=context is not None,
    tls_context=context,
    require_starttls=context is not None,
)
controller.start()
sys.stdin.read()
