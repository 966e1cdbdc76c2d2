#!/bin/sh
# Starts a program of Rondo with what only the running container knows; a set variable always wins.
#   NATS_URL_FILE  a file that holds NATS_URL, so that its password is in no environment listing
#   the host name  (a container's short id, a pod's name) is the id on the bus
set -eu
if [ -z "${NATS_URL:-}" ] && [ -n "${NATS_URL_FILE:-}" ]; then
    NATS_URL=$(cat "$NATS_URL_FILE")
    export NATS_URL
fi
host=$(cat /proc/sys/kernel/hostname)
export RONDO_GATEWAY_ID="${RONDO_GATEWAY_ID:-$host}"
export RONDO_COORDINATOR_ID="${RONDO_COORDINATOR_ID:-$host}"
export RONDO_INSTANCE_ID="${RONDO_INSTANCE_ID:-$host}"
exec "$@"
