"""`rondo secrets`: a password for each user of the bus, and nats-server's configuration of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from rondo.bus.permissions import COORDINATOR, GATEWAY, OPERATOR, ROLES, WORKER, user_of
from rondo.errors import ConfigError
from rondo.local.arguments import whole
from rondo.local.bus_secrets import BusSecrets

MAX_WORKERS = 1024


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("secrets", help="make users for a bus that others can reach")
    parser.add_argument("folder", type=Path, help="where they are kept, and found again")
    parser.add_argument(
        "--host", action="append", metavar="HOST[:PORT]", help="of a nats-server; again for each"
    )
    parser.add_argument(
        "--worker",
        action="append",
        default=[],
        metavar="ID",
        help="a user for this instance alone, instead of one for all; again for each",
    )
    parser.add_argument("--tls", action="store_true", help="addresses ask for TLS")
    parser.add_argument(
        "--demo", action="store_true", help="gateways may break workers (demonstrations)"
    )
    parser.add_argument(
        "--kubernetes",
        metavar="RELEASE",
        help="print Secrets for the Helm chart, for `kubectl apply --filename -`",
    )
    parser.add_argument(
        "--workers",
        type=whole(1, MAX_WORKERS),
        default=16,
        metavar="N",
        help="of the chart, at most (16)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the files, or prints the Secrets."""
    args.folder.mkdir(parents=True, exist_ok=True)
    args.folder.chmod(0o700)
    store = BusSecrets(args.folder)
    if args.kubernetes:
        print(_manifests(store, args))
        return 0
    users = [role for role in ROLES if role != WORKER or not args.worker]
    users += [_worker(name) for name in args.worker]
    hosts = args.host or ["127.0.0.1"]
    store.write(args.folder / "users.conf", store.users_conf(users, demo=args.demo))
    for user in users:
        store.write(args.folder / f"{user}.url", store.url(user, hosts, _scheme(args)))
    if len(hosts) > 1:
        store.write(args.folder / "routes.conf", store.routes_conf(hosts))
    print(f"{args.folder}/users.conf: include it in the configuration of nats-server")
    print(f"{args.folder}/USER.url: NATS_URL of {', '.join(users)}")
    return 0


def _worker(instance_id: str) -> str:
    try:
        return user_of(WORKER, instance_id)
    except ValueError as error:
        raise ConfigError("--worker", str(error)) from error


def _scheme(args: argparse.Namespace) -> str:
    return "tls" if args.tls else "nats"


def _manifests(store: BusSecrets, args: argparse.Namespace) -> str:
    """A list of Secrets, as JSON: one for the servers, and one for each role.

    That of the workers has a key for each of them, the pod's name; a pod mounts its own alone.
    """
    release = args.kubernetes
    hosts = args.host or [f"{release}-nats-{i}.{release}-nats" for i in range(3)]
    instances = [f"{release}-worker-{number}" for number in range(args.workers)]
    users = [GATEWAY, COORDINATOR, OPERATOR, *(_worker(name) for name in instances)]

    def url(user: str) -> str:
        return store.url(user, hosts, _scheme(args))

    contents = {
        "nats": {
            "users.conf": store.users_conf(users, demo=args.demo),
            "routes.conf": store.routes_conf(hosts),
        },
        "bus-gateway": {"nats_url": url(GATEWAY)},
        "bus-coordinator": {"nats_url": url(COORDINATOR)},
        "bus-operator": {"nats_url": url(OPERATOR)},
        "bus-worker": {name: url(_worker(name)) for name in instances},
    }
    items = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": f"{release}-{name}",
                "labels": {"app.kubernetes.io/instance": release},
            },
            "stringData": data,
        }
        for name, data in contents.items()
    ]
    manifest = {"apiVersion": "v1", "kind": "List", "items": items}
    return msgspec.json.format(msgspec.json.encode(manifest)).decode()
