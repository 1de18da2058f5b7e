"""Tables of the documentation are those of the figures that lie beside it."""

import json
from pathlib import Path

from worldmodel.studies.ablation import COMPARISONS, asked_for, findings, runs_of
from worldmodel.studies.ablation_tables import findings_table, markdown, table

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_tables_of_the_ablation_are_those_of_its_results() -> None:
    record = json.loads((DOCS / "results" / "ablation.json").read_text())
    feed_forward, runs = record["preset"]["model"]["trunk"]["feed_forward"], runs_of(record)
    page = (DOCS / "training.md").read_text()
    again = "make them anew with `worldmodel ablate all --out FOLDER --report`"
    assert markdown(table(asked_for(COMPARISONS, feed_forward), runs, record["controls"])) in page, again
    assert markdown(findings_table(findings(COMPARISONS, feed_forward, runs))) in page, again


def test_the_findings_in_words_are_those_of_the_results() -> None:
    page = (DOCS / "training.md").read_text()
    digits = {"text_bits_per_byte": 3, "flow_loss": 3, "state_error_last": 2}
    for finding in json.loads((DOCS / "results" / "ablation.json").read_text())["findings"]:
        if finding["measure"] in digits and finding["better"] != "moe":
            first, second = (f"{mean:.{digits[finding['measure']]}f}" for mean in finding["means"])
            assert f"{first} against {second}" in page, finding
