"""The runner of pages: what it runs, and what it does not let pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.pages import blocks, follow, mentions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Follow = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Follow:
    """Follows a page given as its text."""

    def run(text: str, **options: Any) -> str:
        page, folder = tmp_path / "page.md", tmp_path / "folder"
        page.write_text(text)
        folder.mkdir()
        return follow(page, folder, replace=options.pop("replace", {}), **options)

    return run


def test_a_terminal_keeps_its_folder_its_variables_and_its_files(run: Follow) -> None:
    page = """
```python file=lib/hello.py
print("hello")
```

```sh
export WHOM=world
cd lib
```

```console
$ cat hello.py; \\
  echo "to the $WHOM"
print("hello")
…
to … world
```
"""
    assert run(page) == 'print("hello")\nto the world\n'


def test_a_second_terminal_works_beside_the_first_and_is_interrupted_for_its_next_block(run: Follow) -> None:
    page = """
```sh terminal=server until=ready
echo > up; echo ready; sleep 1000
```

```sh
test -e up
```

```console terminal=server
$ echo again
again
```
"""
    run(page)


def test_a_command_in_the_background_may_be_waited_for(run: Follow) -> None:
    page = """
```sh until=started
(echo started; sleep 1000) &
```

```sh
kill %1
```
"""
    assert run(page).startswith("started\n")


def test_a_placeholder_is_what_was_printed_for_it_last(run: Follow) -> None:
    page = """
```sh
echo "number 1"
echo "number 2"
```

```console
$ echo it was NUMBER
it was 2
```
"""
    run(page, capture={"NUMBER": r"number (\d)"})


def test_a_command_that_is_replaced_must_be_on_the_page(run: Follow) -> None:
    page = "```sh\necho far away\n```\n"
    with pytest.raises(AssertionError, match="does not have"):
        run(page, replace={"near": "here"})


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```\nmake\n```\n", "line 1: nobody runs this block"),
        ("```python\nprint()\n```\n", "nobody runs this block .python"),
        ("\n\n```sh\ntrue\nfalse\n```\n", "line 3: false\nended with 1"),
        ("```sh exit=2\ntrue\n```\n", "ended with 0"),
        ("```sh\nif\n```\n", "ended with None"),
        ("```console\n$ echo b; echo a\na\nb\n```\n", "did not print\nb"),
        ("```console\noutput\n```\n", "begins with a command"),
        ("```sh skip=yes\ntrue\n```\n", "may stand there"),
        ("```sh until=up\necho down; false\n```\n", "did not come to print 'up':\ndown"),
        ("```sh until=up\nexit 1\n```\n", "did not come to print 'up'"),
        ("```sh\necho NUMBER\n```\n", "nothing was printed for NUMBER"),
    ],
)
def test_a_page_with_a_mistake_does_not_pass(run: Follow, page: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        run(page, capture={"NUMBER": r"number (\d)"})


def test_a_here_document_belongs_to_its_command_and_a_remark_is_none() -> None:
    (block,) = blocks("```sh\n# look:\ncat <<EOF\na\nEOF\n\ntrue\n```\n")

    assert [command.text for command in block.commands] == ["cat <<EOF\na\nEOF", "true"]


def test_commands_in_running_text_are_found() -> None:
    page = "Run `make\ntest`, not `makeshift`, nor `make` alone.\n\n```sh\nmake x\n```\n"

    assert mentions(page, {"make"}) == ["make test"]


def test_what_befalls_the_reader_comes_before_the_first_command_under_its_heading(
    run: Follow, tmp_path: Path
) -> None:
    """Once; and a heading without commands is a mistake."""
    page = """
# One
```sh
test ! -e it
```

## Two
```sh
rm it
```

```sh
# Three
test ! -e it
```
"""
    assert run(page, meanwhile={"Two": (tmp_path / "folder" / "it").touch}) == ""
    (tmp_path / "folder").rmdir()
    with pytest.raises(AssertionError, match=r"page\.md has no commands under \['Three'\]"):
        run("# Three\n", meanwhile={"Three": print})


def test_a_block_is_left_out_only_if_both_page_and_test_say_so(run: Follow, tmp_path: Path) -> None:
    page = "```sh elsewhere=docker\nexit 1\n```\n"

    assert run(page, elsewhere=["exit 1"]) == ""
    for text, elsewhere in ((page, []), (page.replace(" elsewhere=docker", ""), ["exit 1"])):
        (tmp_path / "folder").rmdir()
        with pytest.raises(AssertionError, match=r"page\.md has other blocks that are not run"):
            run(text, elsewhere=elsewhere)
