"""Command-line options of the simulator, and what they mean as a cluster and a workload."""

from __future__ import annotations

import argparse

from rondo.errors import ConfigError
from rondo.perf.profile import load_profile
from rondo.policy.catalog import PolicySettings, make_policy
from rondo.policy.econoserve import INSTANCE_POLICY_NAMES
from rondo.policy.fudg import FudgSettings
from rondo.types import Slo
from rondo_bench.sim.spec import BLOCK_GROWTH, ClusterSpec, LinkSpec
from rondo_bench.sim.workload import WorkloadSpec


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `simulate` and `goodput` share."""
    add = parser.add_argument
    add("--profile", required=True, metavar="FILE|NAME", help="step times of an instance")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--lengths", metavar="CSV", help="prompt and answer lengths to draw from")
    source.add_argument("--trace", metavar="CSV|JSONL", help="requests to replay")
    add("--policy", default="padg", metavar="NAME", help="see docs/policies.md")
    add("--instance-policy", default=BLOCK_GROWTH, choices=INSTANCE_POLICY_NAMES, help="of KV")
    add("--instances", type=int, default=8, metavar="N")
    add("--macros", type=int, default=1, metavar="N", help="macro-instances that share them")
    add("--rate", type=float, default=None, metavar="R", help="requests per second; scales a trace")
    add("--cv", type=float, default=1.0, metavar="C", help="of arrival gaps; 1 is Poisson")
    add("--requests", type=int, default=None, metavar="K")
    add("--seed", type=int, default=0, metavar="S")
    add("--ttft-s", type=float, default=5.0, metavar="X")
    add("--tpot-s", type=float, default=0.1, metavar="Y")
    add("--kv-tokens", type=int, default=None, metavar="N", help="default: the profile's pool")
    add("--promised-share", type=float, default=1.0, metavar="X", help="of the pool, to the policy")
    add("--cpu-ms", type=float, default=4.0, metavar="M", help="engine overhead of a step")
    add("--chunk-tokens", type=int, default=512, metavar="N", help="budget of a chunked step")
    add("--prefill-tokens", type=int, default=4096, metavar="N", help="limit of a prefill step")
    add("--max-running", type=int, default=256, metavar="N", help="sequences in a decode step")
    add("--prediction", default="mean", choices=["mean", "file", "exact"], help="answer lengths")
    add("--delay-ms", type=float, default=0.0, metavar="M", help="of each message on the bus")
    add_link_options(parser)
    add("--json", action="store_true", help="print one JSON object and nothing else")


def add_link_options(parser: argparse.ArgumentParser) -> None:
    """The options of a policy that moves KV between instances."""
    add = parser.add_argument_group("fudg").add_argument
    add("--prefill-instances", type=int, default=0, metavar="N", help="0: half of them")
    add("--instances-per-node", type=int, default=2, metavar="N")
    add("--link-gbps", type=float, default=10.0, metavar="G", help="of a node, each way; inf")
    add("--intra-node-gbps", type=float, default=64.0, metavar="G", help="among its instances")
    add("--kv-overlap", type=float, default=0.98, metavar="X", help="share sent during prefill")
    add(
        "--kv-bytes-per-token", type=float, default=None, metavar="B", help="default: the profile's"
    )


def links_of(args: argparse.Namespace) -> LinkSpec:
    """The links that the options describe.

    Raises:
        ConfigError: an option is out of range; names it.
    """
    for name in ("link_gbps", "intra_node_gbps", "kv_bytes_per_token"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')}", "must be above 0")
    if not 0 <= args.kv_overlap <= 1:
        raise ConfigError("--kv-overlap", f"must be from 0 to 1, not {args.kv_overlap}")
    return LinkSpec(
        instances_per_node=args.instances_per_node,
        link_gbps=args.link_gbps,
        intra_node_gbps=args.intra_node_gbps,
        kv_overlap=args.kv_overlap,
        at_once_s=3 * args.delay_ms / 1e3 + 1e-9,  # the report, the order, and rounding
        kv_bytes_per_token=args.kv_bytes_per_token,
    )


def workload_of(args: argparse.Namespace, seed: int, rate: float | None) -> WorkloadSpec:
    """The workload that the options describe, at a seed and rate."""
    num_requests = args.requests
    if num_requests is None and args.lengths:
        num_requests = 2000
    return WorkloadSpec(
        lengths=args.lengths,
        trace=args.trace,
        rate=rate,
        cv=args.cv,
        num_requests=num_requests,
        seed=seed,
    )


def _check(args: argparse.Namespace) -> None:
    least = {
        "instances": 1,
        "macros": 1,
        "chunk_tokens": 1,
        "prefill_tokens": 1,
        "max_running": 1,
        "cpu_ms": 0,
        "delay_ms": 0,
        "prefill_instances": 0,
        "instances_per_node": 1,
    }
    for name, low in least.items():
        if not getattr(args, name) >= low:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(option, f"must be at least {low}, not {getattr(args, name)}")
    for name in ("ttft_s", "tpot_s", "promised_share"):
        if not getattr(args, name) > 0:
            raise ConfigError(f"--{name.replace('_', '-')}", "must be above 0")
    if args.kv_tokens is not None and args.kv_tokens < 1:
        raise ConfigError("--kv-tokens", "must be at least 1")
    if args.macros > args.instances:
        raise ConfigError("--macros", f"{args.macros} need as many instances, not {args.instances}")


def cluster_of(args: argparse.Namespace) -> ClusterSpec:
    """The cluster that the options describe.

    Raises:
        ConfigError: an option is out of range, or does not go with another; names it.
    """
    _check(args)
    settings = PolicySettings(
        chunk_tokens=args.chunk_tokens, fudg=FudgSettings(num_prefill=args.prefill_instances)
    )
    spec = ClusterSpec(
        profile=load_profile(args.profile),
        policy=args.policy,
        num_instances=args.instances,
        num_macros=args.macros,
        slo=Slo(ttft_s=args.ttft_s, tpot_s=args.tpot_s),
        settings=settings,
        instance_policy=args.instance_policy,
        kv_tokens=args.kv_tokens,
        promised_share=args.promised_share,
        cpu_ms=args.cpu_ms,
        max_running=args.max_running,
        max_prefill_tokens=args.prefill_tokens,
        prediction=args.prediction,
        message_delay_s=args.delay_ms / 1e3,
        links=links_of(args),
    )
    for size in spec.macro_sizes():
        make_policy(spec.policy, spec.settings_of(size))
    if spec.policy == "fudg":
        spec.kv_bytes_per_token()
    return spec
