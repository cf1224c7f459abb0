# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.service.command_line import argument_parser


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--confg", "x"], "unrecognized arguments: --confg x; did you mean --config?"),
        (["--check-confg=x"], "unrecognized arguments: --check-confg=x; did you mean --check-config?"),
        (["surplus"], "unrecognized arguments: surplus"),
        (["--config"], "argument --config: expected one argument"),
    ],
)
def test_wrong_usage_names_what_was_probably_meant(
    typed: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        argument_parser().parse_args(typed)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"bcached: error: {told}\n")
