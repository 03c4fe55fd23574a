"""The rows of the clinic, gathered from its pages."""

import pytest

from tools.clinic import rows

START = "Begin [here](b.md) or [there](a.md), or [here](b.md) again; [elsewhere](../c.md).\n"
TOP = "| On this page | It is | Comes as |\n|---|---|---|\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "index.md").write_text(START)
    (tmp_path / "a.md").write_text(
        f"{TOP}| `x` | [Ex](#ex) | error |\n\n| `x` | [Ex](../c.md) | y |\n"
    )
    (tmp_path / "b.md").write_text(
        f"{TOP}| `z` | [Zed](#z) | error |\n| Zzz | [Zed](#z) | zero |\n"
    )
    return tmp_path


def test_the_rows_come_in_the_order_in_which_the_start_page_names_the_pages(folder):
    assert list(rows(folder)) == [
        '| `z` | <a id="z"></a>[Zed](b.md#z) | error |',
        "| Zzz | [Zed](b.md#z) | zero |",
        '| `x` | <a id="ex"></a>[Ex](a.md#ex) | error |',
    ]


def test_a_page_that_the_start_page_names_must_be_there(folder):
    (folder / "a.md").unlink()
    with pytest.raises(FileNotFoundError, match="a.md"):
        list(rows(folder))
