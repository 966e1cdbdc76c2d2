"""Every subject and bucket name, built and parsed here and nowhere else."""

from __future__ import annotations

import re

PREFIX = "rondo.v1"
INSTANCES_BUCKET = "rondo_instances"
MACROS_BUCKET = "rondo_macros"
SCALING_BUCKET = "rondo_scaling"
RESPONSES_BUCKET = "rondo_responses"
FILES_BUCKET = "rondo_files"
FILE_CHUNKS_BUCKET = "rondo_file_chunks"
BATCHES_BUCKET = "rondo_batches"
STATUS = f"{PREFIX}.status"
WATCH = f"{PREFIX}.watch"

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_id(value: str) -> str:
    """The id itself, when it can be one token of a subject.

    Raises:
        ValueError: it is empty, longer than 64, or holds other than letters, digits, _ and -.
    """
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{value!r} is no id: 1 to 64 letters, digits, '_' or '-'")
    return value


def macro_id_of(model: str) -> str:
    """A model's first macro-instance: its name with other characters replaced."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", model)[:64] or "model"


def further_macro_id(first_id: str, number: int) -> str:
    """The id of a model's `number`-th further macro-instance."""
    return check_id(f"{first_id[:56]}__{number}")


def submit(macro_id: str) -> str:
    """Gateway -> coordinator."""
    return f"{PREFIX}.macro.{check_id(macro_id)}.submit"


def run(instance_id: str) -> str:
    """Gateway -> worker: prompts, cancels, resyncs."""
    return f"{PREFIX}.inst.{check_id(instance_id)}.run"


def command(instance_id: str) -> str:
    """Coordinator -> worker."""
    return f"{PREFIX}.inst.{check_id(instance_id)}.cmd"


def report(instance_id: str) -> str:
    """Worker -> coordinator."""
    return f"{PREFIX}.inst.{check_id(instance_id)}.report"


def all_reports() -> str:
    """Every worker's reports."""
    return f"{PREFIX}.inst.*.report"


def beat(instance_id: str) -> str:
    """Worker -> coordinator, read at leisure: it lives, and has no news."""
    return f"{PREFIX}.inst.{check_id(instance_id)}.beat"


def all_beats() -> str:
    """Every worker's beats."""
    return f"{PREFIX}.inst.*.beat"


def tokens(gateway_id: str) -> str:
    """Worker -> gateway: token frames."""
    return f"{PREFIX}.tok.{check_id(gateway_id)}"


def all_tokens() -> str:
    """Every gateway's token frames; for observers."""
    return f"{PREFIX}.tok.*"


def event(kind: str) -> str:
    """Decisions and life-cycle events."""
    return f"{PREFIX}.events.{check_id(kind)}"


def fault(instance_id: str) -> str:
    """Console -> worker of a demonstration cluster."""
    return f"{PREFIX}.inst.{check_id(instance_id)}.fault"


def all_events() -> str:
    """Every kind of event."""
    return f"{PREFIX}.events.*"


def any_submit() -> str:
    """Submits of every macro-instance; only permissions name it, as the three that follow."""
    return f"{PREFIX}.macro.*.submit"


def any_run() -> str:
    """What gateways say to any worker."""
    return f"{PREFIX}.inst.*.run"


def any_command() -> str:
    """What coordinators say to any worker."""
    return f"{PREFIX}.inst.*.cmd"


def any_fault() -> str:
    """What a console says to any worker of a demonstration cluster."""
    return f"{PREFIX}.inst.*.fault"


def instance_of(subject: str) -> str:
    """The instance that a subject `rondo.v1.inst.<instance_id>.<what>` belongs to."""
    return subject.split(".", 4)[3]
