"""Makes the users of the bus: a password each, written where only its owner's containers look.

Runs once before everything else, as root and without a network. What exists is kept, so passwords
survive restarts; removing the volumes (`docker compose down --volumes`) makes new ones.

    /secrets/nats/users.conf          what nats-server includes
    /secrets/<program>/nats_url       NATS_URL of gateway, coordinator, worker
    /secrets/nats/operator_url        for whoever may use docker on this machine
"""

import os
import secrets
import sys
from pathlib import Path

ROOT = Path("/secrets")
DATA = Path("/data")
PROGRAMS = ("gateway", "coordinator", "worker")
USERS = (*PROGRAMS, "operator")
HOSTS = os.environ.get("RONDO_NATS_HOSTS", "nats").split(",")
OWNER = 10001

#: All that Rondo says on the bus; JetStream's own subjects carry its key-value buckets.
SUBJECTS = ("rondo.v1.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$KV.>", "_INBOX.>")


def password(name: str) -> str:
    """The user's password; a new one where there is none."""
    file = ROOT / "nats" / f"{name}.password"
    if not file.exists():
        write(file, secrets.token_urlsafe(32))
    return file.read_text()


def write(file: Path, text: str) -> None:
    """A file for its owner alone, never seen half written."""
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.chmod(0o400)
    os.chown(draft, OWNER, OWNER)
    draft.replace(file)


def users_conf(passwords: dict[str, str]) -> str:
    """The authorization block of nats-server."""
    subjects = ", ".join(f'"{subject}"' for subject in SUBJECTS)
    users = "\n".join(
        f'    {{ user: {name}, password: "{text}" }}' for name, text in passwords.items()
    )
    allowed = f"{{ publish: [{subjects}], subscribe: [{subjects}] }}"
    return f"authorization {{\n  default_permissions: {allowed}\n  users: [\n{users}\n  ]\n}}\n"


def main() -> int:
    """Entry point."""
    for folder in (ROOT / "nats", *(ROOT / name for name in PROGRAMS), *DATA.glob("*")):
        os.chown(folder, OWNER, OWNER)
        folder.chmod(0o700)
    passwords = {user: password(user) for user in USERS}
    cluster = password("cluster")
    write(ROOT / "nats" / "users.conf", users_conf(passwords))
    write(ROOT / "nats" / "routes.conf", routes_conf(cluster))
    for user, text in passwords.items():
        file = ROOT / user / "nats_url" if user in PROGRAMS else ROOT / "nats" / f"{user}_url"
        write(file, ",".join(f"nats://{user}:{text}@{host}:4222" for host in HOSTS))
    print(f"users of the bus: {', '.join(USERS)}")
    return 0


def routes_conf(text: str) -> str:
    """How the servers of a cluster know each other."""
    routes = ", ".join(f'"nats://cluster:{text}@{host}:6222"' for host in HOSTS)
    return (
        "cluster {\n  name: rondo\n  port: 6222\n"
        f'  authorization {{ user: cluster, password: "{text}", timeout: 2 }}\n'
        f"  routes: [{routes}]\n}}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
