"""Autobahn's cases against the echo application, judged strictly: `make autobahn` runs all of them, section 9 too.

A case passes if both its verdicts, about messages and about the close, are OK. NON-STRICT is a failure here. The few
cases that can only inform, by Autobahn's own definition, are named below; they must inform and nothing else.
Sections 12 and 13 are about compression, which the gateway declines.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

import kosoku
from kosoku._kosoku import CaseResult

from tests.support import echo

# Section → its cases: a selection that finds fewer has not run what it says.
SECTIONS = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}
TITLES = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "close handling",
    "9": "limits and speed",
    "10": "auto-fragmentation",
}
# What may come of messages before a close, and of close codes that the RFC leaves open.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}


def run(url: str, *cases: str, concurrency: int = 4) -> list[CaseResult]:
    """The results of cases (patterns: `9.*`) against a server."""

    async def all_of_them() -> list[CaseResult]:
        return await kosoku.run_fuzzingclient(url, list(cases), concurrency=concurrency)

    try:
        return asyncio.run(all_of_them())
    except kosoku.FailureError as failure:
        return list(failure.results)


def complaints(results: list[CaseResult]) -> list[str]:
    """What is not strictly right, one line a case."""
    found = []
    for result in results:
        wanted = "INFORMATIONAL" if result.case_id in INFORMATIONAL else "OK"
        if result.behavior.value != wanted or result.behavior_close.value != wanted:
            found.append(
                f"{result.case_id}: {result.behavior.value} ({result.result}), close {result.behavior_close.value}"
                f" ({result.result_close}), code {result.remote_close_code}; {result.description.strip()}"
            )
    return found


def main() -> int:
    """All sections, or those that are named, one after the other."""
    parser = argparse.ArgumentParser(prog="autobahn", description="Autobahn's cases against the gateway's parser.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write Autobahn's own HTML and JSON reports there")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    failed = total = 0
    reported = []
    with echo.running() as url:
        for section in arguments.sections or SECTIONS:
            began = time.perf_counter()
            results = run(url, f"{section}.*", concurrency=1 if section == "9" else 4)
            bad = complaints(results)
            if len(results) != SECTIONS[section]:
                bad.append(f"{len(results)} cases were run, the section has {SECTIONS[section]}")
            failed += len(bad)
            total += len(results)
            reported += results
            informed = sum(result.case_id in INFORMATIONAL for result in results)
            strict = max(0, len(results) - informed - len(bad))
            print(
                f"{section:>2} {TITLES[section]:<20} {len(results):>4} cases, {strict} strict"
                f"{f', {informed} informational' if informed else ''}, {time.perf_counter() - began:.1f} s"
                f"{f', {len(bad)} FAILED' if bad else ''}",
                flush=True,
            )
            for line in bad:
                print(f"   {line}")
    if arguments.report:
        from kosoku._report import write_reports

        write_reports(reported, str(arguments.report))
        print(f"reports are in {arguments.report}")
    print(f"{total} cases, {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
