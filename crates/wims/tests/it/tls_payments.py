"""A payments API behind TLS, for payments_api.rs: it charges everybody.

    tls_payments.py HOST CERTIFICATE KEY

It says on which port it listens, then what became of each connection, a line each: the first line
of the request it answered, or "no request:" and why none came. It ends with its standard input.
"""

import os
import socket
import ssl
import sys
import threading

REPLY = b'{"message":"Payment Success!"}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"


def serve(context, connection):
    """Answers one connection, and tells what became of it."""
    connection.settimeout(5)
    try:
        with context.wrap_socket(connection, server_side=True) as stream:
            request = stream.recv(65536)
            stream.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(REPLY) + REPLY)
        told = request.split(b"\r\n")[0].decode() if request else "no request: hung up"
    except OSError as error:
        told = f"no request: {error}"
    print(told, flush=True)


def accept(context, listener):
    """Serves every connection on a thread of its own."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(context, connection), daemon=True).start()


host, certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
listener = socket.create_server((host, 0))
print(listener.getsockname()[1], flush=True)
threading.Thread(target=accept, args=(context, listener), daemon=True).start()
sys.stdin.read()
os._exit(0)
