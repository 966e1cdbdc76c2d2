"""Makes the users of the bus, and puts what each program needs where only its containers look.

Runs once before everything else, as root and without a network, in the coordinator's image: who may
do what, and how it is written down, is Rondo's own code. What exists is kept, so passwords survive
restarts; removing the volumes (`docker compose down --volumes`) makes new ones.

    /secrets/nats/users.conf          what nats-server includes
    /secrets/nats/routes.conf         the same for a cluster of them
    /secrets/<program>/nats_url       NATS_URL of gateway, coordinator, worker
    /secrets/nats/operator_url        for whoever may use docker on this machine
"""

import os
import sys
from pathlib import Path

from rondo.bus.permissions import OPERATOR, ROLES
from rondo.local.bus_secrets import BusSecrets

ROOT = Path("/secrets")
DATA = Path("/data")
PROGRAMS = tuple(role for role in ROLES if role != OPERATOR)
HOSTS = os.environ.get("RONDO_NATS_HOSTS", "nats").split(",")
DEMO = os.environ.get("RONDO_DEMO", "") == "true"
OWNER = 10001


def main() -> int:
    """Entry point."""
    servers = ROOT / "nats"
    for folder in (servers, *(ROOT / name for name in PROGRAMS), *DATA.glob("*")):
        os.chown(folder, OWNER, OWNER)
        folder.chmod(0o700)
    store = BusSecrets(servers, OWNER)
    store.write(servers / "users.conf", store.users_conf(ROLES, demo=DEMO))
    store.write(servers / "routes.conf", store.routes_conf(HOSTS))
    for role in ROLES:
        file = servers / "operator_url" if role == OPERATOR else ROOT / role / "nats_url"
        store.write(file, store.url(role, HOSTS))
    print(f"users of the bus: {', '.join(ROLES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
