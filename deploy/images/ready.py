"""Health check of a container: exit code 0 when /readyz answers 200, else 1 and the reason.

    ready.py [PORT [PATH]]

It runs every few seconds in every container, so it imports next to nothing: plain sockets.
"""

import os
import socket
import sys

TIMEOUT_S = 5.0


def opened(port: int) -> socket.socket:
    """A connection to the program, with TLS where it has a certificate: its own, so unverified."""
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    if not os.environ.get("RONDO_HTTP_TLS_CERT"):
        return connection
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def ask(port: int, path: str) -> bytes:
    """The whole HTTP answer."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with opened(port) as connection:
        connection.sendall(request.encode())
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def main(arguments: list[str]) -> int:
    """Entry point."""
    port = arguments[0] if arguments else os.environ.get("RONDO_HTTP_PORT", "8000")
    path = arguments[1] if len(arguments) > 1 else "/readyz"
    try:
        answer = ask(int(port), path)
    except OSError as error:
        print(f"{path} does not answer: {error}")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    print(body.decode(errors="replace"))
    return 0 if head.split(b" ", 2)[1:2] == [b"200"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
