"""What the report of a quickstart says of the mixture."""

from worldmodel.scripts.quickstart import newest_shares


def test_the_table_of_shares_is_that_of_the_newest_row_that_has_them() -> None:
    rows = [
        {"step": 1, "data/share/text": 0.5, "data/share/goal": 0.5},
        {"step": 2, "data/share/text": 0.25, "data/share/goal": 0.75, "loss/text": 1.0},
        {"step": 2, "validation/text": 3.0},
        {"step": 2, "dream/latent_mse_1/learned": 0.1},
    ]
    assert newest_shares(rows) == [["goal", "75.0%"], ["text", "25.0%"]]
    assert newest_shares([{"step": 1}]) == []
