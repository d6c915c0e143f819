"""The README's Python blocks run and print what it says; run as a script it fills in the output."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from printed import differences

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<output>.*?)```\n", re.DOTALL)


def run_blocks(text: str) -> list[tuple[str, str]]:
    """(printed now, printed in the README) of each block, run in order in one namespace."""
    namespace: dict[str, object] = {}
    pairs = []
    for block in BLOCKS.finditer(text):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block["code"], str(README), "exec"), namespace)
        pairs.append((printed.getvalue(), block["output"]))
    return pairs


@pytest.mark.slow  # .ci/run has it beside the pages
def test_the_readme_prints_what_it_says():
    text = README.read_text(encoding="utf-8")
    pairs = run_blocks(text)
    assert len(pairs) == text.count("```python") > 0
    for printed, written in pairs:
        assert not differences(printed, written)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    outputs = iter([printed for printed, _ in run_blocks(text)])

    def filled(block: re.Match[str]) -> str:
        return f"```python\n{block['code']}```\n\n```text\n{next(outputs).rstrip()}\n```\n"

    README.write_text(BLOCKS.sub(filled, text), encoding="utf-8")


if __name__ == "__main__":
    main()
