"""What a shell makes of braces and globs reaches the command whole."""

from clusters.cli import one_value_each


def test_values_after_pool_and_target_belong_to_that_option() -> None:
    given = ["specialize", "--pool", "a", "b", "c", "--target", "x", "y", "--out", "o"]
    assert one_value_each(given) == [
        *("specialize", "--pool", "a", "--pool", "b", "--pool", "c"),
        *("--target", "x", "--target", "y", "--out", "o"),
    ]


def test_repeated_options_and_other_commands_stay_as_they_are() -> None:
    for given in (
        ["specialize", "--pool", "a", "--pool", "b", "--target", "x", "--out", "o", "--minutes", "3"],
        ["demo", "--target", "legal", "--quick"],
        ["sql", "select 1", "--format", "csv"],
    ):
        assert one_value_each(given) == given
