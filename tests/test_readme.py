"""What the documents show is what happens: their programs run, and print what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import readme
from tests.readme import DocumentError

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "examples/README.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_does_what_it_says(name: str, tmp_path: Path) -> None:
    document = ROOT / name
    if not document.exists():
        pytest.skip(f"{name} is not written yet")
    blocks = readme.parse(document.read_text())
    readme.check_make_lines(blocks, readme.makefile_targets((ROOT / "Makefile").read_text()))
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "readme.py"), str(document)],
        cwd=tmp_path,
        env=readme.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def document(*blocks: str) -> str:
    return "# Title\n\n" + "\n\nsome words\n\n".join(blocks) + "\n"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_programs_share_one_namespace_and_directory() -> None:
    text = document(
        "```python\nimport pathlib\nx = 41\n```",
        "```console\n$ echo one > file\n$ cat file\none\n```",
        "```python\nprint(x + 1, pathlib.Path('file').read_text())\n```\n\n"
        "<!-- output -->\n\n```text\n42 one\n```",
    )
    assert readme.run(readme.parse(text)) == 3


def test_dots_stand_for_anything_and_no_output_is_not_compared() -> None:
    text = document(
        "```console\n$ printf 'a 17 b\\nc\\nd\\n'\na ... b\n...\nd\n$ echo whatever\n```"
    )
    assert readme.run(readme.parse(text)) == 1


def test_a_continued_command_is_one() -> None:
    assert readme.run(readme.parse(document("```console\n$ echo a \\\n    b\na b\n```"))) == 1


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("```console\n$ echo one\ntwo\n```", "line 4: .*expected\ntwo\nbut it printed\none\n"),
        ("```console\n$ echo one\none\ntwo\n```", "expected\none\ntwo\nbut"),
        ("```console\n$ printf 'one\\ntwo\\n'\none\n```", "expected\none\nbut"),
        ("```console\n$ exit 3\n```", "exit status 3"),
        ("```console\nno command\n```", "begins with"),
        ("```python\n\n1 / 0\n```", "line 5(.|\n)*ZeroDivisionError"),
        ("```python\nimport sys\nsys.exit()\n```", "SystemExit"),
        ("```python\nprint(1)\n```\n<!-- output -->\n```text\n2\n```", "expected\n2\nbut it.*\n1"),
    ],
)
def test_what_is_not_so_goes_red(block: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        readme.run(readme.parse(document(block)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nx = 1\n", "never closed"),
        ("```\nx\n```", "language ''"),
        ("```bash\nls\n```", "language 'bash'"),
        ("<!-- not run: -->\n```python\nx\n```", "say why"),
        ("<!-- not run -->\n```python\nx\n```", "say why"),
        ("<!-- output -->\n```text\nx\n```", "must follow"),
        ("```python\n1\n```\n<!-- output -->\n```json\nx\n```", "is text"),
    ],
)
def test_what_breaks_the_rules_is_refused(text: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        readme.parse(document(text))


def test_skipped_and_data_blocks_are_not_run() -> None:
    text = document(
        "<!-- not run: needs a cluster -->\n\n```console\n$ exit 1\n```",
        "```text\n$ exit 1\n```",
        "```sql\nselect 1\n```",
    )
    blocks = readme.parse(text)
    assert [block.skipped for block in blocks] == ["needs a cluster", None, None]
    assert readme.run(blocks) == 0


def test_a_document_without_programs_is_fine() -> None:
    assert readme.run(readme.parse("# Title\n")) == 0


def test_a_comment_counts_for_the_next_block_only() -> None:
    text = "<!-- not run: why -->\nwords\n```python\nx\n```\n"
    assert readme.parse(text)[0].skipped is None


def test_make_lines_name_targets() -> None:
    targets = readme.makefile_targets(".PHONY: help demo\nhelp:\n")
    assert targets == {"help", "demo"}
    good = readme.parse(
        document('```console\n$ make\n$ make demo ARGS="-k x y"  # a minute\nsaid\n```')
    )
    readme.check_make_lines(good, targets)
    assert readme.run(good) == 1
    skipped = readme.parse(document("<!-- not run: why -->\n```console\n$ make dmeo\n```"))
    with pytest.raises(DocumentError, match="no target 'dmeo'"):
        readme.check_make_lines(skipped, targets)
