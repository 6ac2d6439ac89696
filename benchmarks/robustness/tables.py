"""Tables of docs/security.md from the results of benchmarks/robustness/."""

from __future__ import annotations

from typing import Any

from benchmarks.results_files import read, rows

STATUSES = {"0": "closed unanswered", "-1": "no answer in time"}


def artifacts() -> str:
    """What came of mutated artifacts."""
    found = read("robustness-artifacts")
    body = [
        [
            f"{found['mutations']:,}",
            *(f"{found[key]:,}" for key in ("loaded", "refused", "crashed")),
            f"{found['longest_seconds']:.1f} s",
            f"{found['peak_megabytes']:,} MB",
            f"{found['peak_megabytes_of_whole_artifacts']:,} MB",
        ]
    ]
    header = ["mutated artifacts", "loaded", "refused by name", "crashed", "longest", "peak memory", "of whole ones"]
    return f"{rows(header, body)}\n\n{_place(found)} (`benchmarks/robustness/artifacts.py`, seed {found['seed']})."


def attacks() -> str:
    """What a server answered to hostile uploads and requests, and what it took."""
    found = read("robustness-server")
    statuses = sorted({key for each in found["statuses"].values() for key in each}, key=int)
    body = [
        [kind, f"{found['sent'][kind]:,}", str(found["kinds"][kind]), *(f"{each.get(key, 0):,}" for key in statuses)]
        for kind, each in found["statuses"].items()
    ]
    memory = found["memory_megabytes"]
    caption = (
        f"`vpt serve` with {found['tasks']} tasks on {found['backbone']}, attacked over sockets "
        f"(`benchmarks/robustness/server.py`, seed {found['seed']}). Code run: {_named(found['code_run'])}; secrets "
        f"told: {_named(found['told_secrets'])}; files written: {_named(found['files_written'])}; faults: "
        f"{_named(found['faults'])}. Memory of the process: {memory['before']:,} MB before, "
        f"{memory['peak_of_attacks']:,} MB at most meanwhile, {memory['peak']:,} MB at most with the attacks of the "
        f"next table; its limits allow {memory['allowed']:,} MB more than before. `/health` took "
        f"{found['slowest_health_seconds']:.1f} s at most, and was not answered {found['health_not_answered']} times."
    )
    return f"{rows(['attacks', 'sent', 'kinds', *(STATUSES.get(s, s) for s in statuses)], body)}\n\n{caption}"


def loads() -> str:
    """Good requests to a server before and while it is attacked."""
    found = read("robustness-server")
    body = [
        [
            f"{each['share']:g}x the capacity, {'attacked' if each['attacked'] else 'alone'}",
            f"{each['sent'] / found['seconds']:.0f}",
            f"{each['per_second']:.0f}",
            f"{each['p50_ms']:,.0f} ms",
            f"{each['p99_ms']:,.0f} ms",
            f"{100 * each['refused']:.0f}%",
            str(each["lost"]),
            str(each["late"]),
            str(each["wrong"]),
        ]
        for each in found["loads"]
    ]
    shared = (
        f"the machine was shared: its load was {found['load_average_at_start']:.1f} at the start"
        if found["shared_machine"]
        else "nothing else ran"
    )
    caption = (
        f"Capacity: {found['capacity_per_second']:.0f} requests/s with {found['clients']} clients that wait for their "
        "answers, measured anew before each pair. Requests are sent by a schedule, and latency counts from when each "
        f"was due; medians of {found['rounds']} alternating rounds of {found['seconds']:g} s. Attackers: "
        f"{found['attackers']} of uploads and {found['attackers']} of requests, each without pause. Server, clients "
        f"and attackers share {found['cores']} cores ({_place(found)}); {shared}."
    )
    header = ["good requests", "sent/s", "answered/s", "p50", "p99", "refused", "lost", "504", "wrong"]
    return f"{rows(header, body)}\n\n{caption}"


def _named(found: bool | list[str]) -> str:
    return "yes" if found is True else "; ".join(found) if found else "none"


def _place(found: dict[str, Any]) -> str:
    return f"{found['machine']['device']}, {found['machine']['threads']} thread"
