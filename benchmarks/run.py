"""Runs rows of works.py and prints a table.

Usage: benchmarks/run [--rounds N] [--seconds S] [--list] [NAME...]; a NAME may be the beginning of several.

Both servers of a row are up at once, each idle while the other is loaded, and the rounds alternate, so that a drift of
the machine's speed meets both alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import load
import works


def once(work: works.Work, rounds: int, seconds: int) -> dict[str, object]:
    """What is read of a server, not of its answers: starts, or memory after some load; one server at a time."""
    found: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for side, server in (("ours", work.ours), ("peer", work.peer)):
            with load.running(server) as up:
                if work.figure == "pss_mib":
                    up.measure(work.connections, seconds)
                    found[side].append(up.pss_mib())
                else:
                    found[side].append(up.cold_seconds)
    pairs = sorted(a / b for a, b in zip(*found.values(), strict=True))
    ratio = pairs[len(pairs) // 2]
    result = {"name": work.name, "what": work.what, "peer": work.peer.name, "target": work.target,
              "figure": work.figure, "ratio": round(ratio, 3), "lowest": round(pairs[0], 3),
              "highest": round(pairs[-1], 3), "met": ratio <= work.target}  # fmt: skip
    middle = {side: round(sorted(each)[len(each) // 2], 3) for side, each in found.items()}
    return {**result, "ours": middle["ours"], "peer_figure": middle["peer"]}


def row(work: works.Work, rounds: int, seconds: int) -> dict[str, object]:
    if work.figure in {"pss_mib", "cold_seconds"}:
        return once(work, rounds, seconds)
    with load.running(work.ours) as ours, load.running(work.peer) as peer:
        for server in (ours, peer):
            server.measure(work.connections, 1)
        figures: dict[str, list[load.Figures]] = {"ours": [], "peer": []}
        for _ in range(rounds):
            figures["ours"].append(ours.measure(work.connections, seconds))
            figures["peer"].append(peer.measure(work.connections, seconds))
        pairs = [getattr(a, work.figure) / getattr(b, work.figure) for a, b in zip(*figures.values(), strict=True)]
        pairs.sort()
        ratio = pairs[len(pairs) // 2]
        result = {"name": work.name, "what": work.what, "peer": work.peer.name,
                  "target": work.target, "figure": work.figure,
                  "ratio": round(ratio, 3), "lowest": round(pairs[0], 3), "highest": round(pairs[-1], 3)}  # fmt: skip
        for side, server in (("ours", ours), ("peer", peer)):
            for name in ("rate", "p50_ms", "p99_ms", "cpu_us"):
                result[f"{side}_{name}"] = round(load.median(figures[side], name), 3)
            result[f"{side}_errors"] = sum(each.errors for each in figures[side])
            result[f"{side}_cold_seconds"] = round(server.cold_seconds, 2)
            result[f"{side}_pss_mib"] = round(server.pss_mib(), 1)
    met = ratio <= work.target if work.figure != "rate" else ratio >= work.target
    return {**result, "met": met}


def show(result: dict[str, object]) -> str:
    sign = "<=" if result["figure"] != "rate" else ">="
    if "ours" in result:
        return (
            f"{result['name']:22} {result['peer']:28} {result['ratio']:8}x ({result['lowest']}-{result['highest']})"
            f" target {sign} {result['target']:<5} {'met ' if result['met'] else 'SHORT'}"
            f"  {result['figure']}: ours {result['ours']} | peer {result['peer_figure']}"
        )
    return (
        f"{result['name']:22} {result['peer']:28} {result['ratio']:8}x ({result['lowest']}-{result['highest']})"
        f" target {sign} {result['target']:<5} {'met ' if result['met'] else 'SHORT'}"
        f"  ours {result['ours_rate']:8.0f}/s p50 {result['ours_p50_ms']} p99 {result['ours_p99_ms']} ms"
        f" {result['ours_cpu_us']:.0f} us/req | peer {result['peer_rate']:8.0f}/s p50 {result['peer_p50_ms']} ms"
        f" | errors {result['ours_errors']}/{result['peer_errors']}"
        f" | cold {result['ours_cold_seconds']} s, {result['ours_pss_mib']} MiB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="rows, or the beginnings of their names; all when none is given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--json", type=Path, help="append each row's figures to this file")
    options = parser.parse_args()
    chosen = [work for work in works.WORKS if not options.names or work.name.startswith(tuple(options.names))]
    if options.list or not chosen:
        print("\n".join(f"{work.name:22} {work.what}; against {work.peer.name}" for work in works.WORKS))
        return 0 if options.list else 2
    short = 0
    for work in chosen:
        try:
            result = row(work, options.rounds, options.seconds)
        except SystemExit as failure:  # a peer that does not start costs its own row
            print(f"{work.name}: {failure}", file=sys.stderr)
            short += 1
            continue
        short += not result["met"]
        print(show(result), flush=True)
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps(result) + "\n")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
