"""The consumer in the README runs as it stands there, against a running door."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

from tests.subscriptions.contract import group, publish
from tests.subscriptions.worlds import remote_world

ROOT = Path(__file__).resolve().parent.parent.parent
LINES_MAX = 10


def consumer_of_readme() -> str:
    """The only program of the section for backend teams."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## For backend teams")[1].split("\n## ")[0]
    (program,) = re.findall(r"```python\n(.*?)```", section, re.S)
    return str(program)


def test_it_prints_what_is_published(tmp_path: Path) -> None:
    """Before and after it began; it ends in order, as a service manager or Ctrl-C ends it, and a second run goes on
    where it was."""
    program = consumer_of_readme()
    assert len([line for line in program.splitlines() if line.strip()]) <= LINES_MAX
    (tmp_path / "first.py").write_text(program)

    async def check() -> None:
        async with remote_world() as world:
            conversation = await group(world)
            environment = os.environ | {
                "GONETS_API_URL": world.url,
                "GONETS_SERVICE_TOKEN": "counts",
                "PYTHONPATH": str(ROOT),
            }
            for text, number in (("first", signal.SIGTERM), ("second", signal.SIGINT)):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-u", str(tmp_path / "first.py"), env=environment, stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE)  # fmt: skip
                assert process.stdout is not None
                source = world.source_of("counts")
                while not any(standing.consumers for standing in await source.subscriptions()):
                    assert process.returncode is None, await process.communicate()
                    await asyncio.sleep(0.05)
                (sequence,) = await publish(world, conversation, 1, text)
                line = await asyncio.wait_for(process.stdout.readline(), 20)
                assert line.decode().split()[:2] == [str(sequence), str(conversation)] and text in line.decode()
                while (await source.subscriptions())[0].cursor < sequence:
                    await asyncio.sleep(0.05)
                process.send_signal(number)
                _, errors = await asyncio.wait_for(process.communicate(), 20)
                assert process.returncode == 0 and not errors, errors
                while (await source.subscriptions())[0].consumers:
                    await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(check(), 50))
