"""The tables of an ablation, for the terminal and as Markdown: what was measured of each variant, and which findings hold."""

from collections.abc import Mapping, Sequence

from worldmodel.studies.ablation import MEASURES, NOTES, Estimate, Outcome, Runs, Variant, estimate, values_of

Rows = list[tuple[str, ...]]
ASIDE = ("codec_psnr", "active_parameters")
"""Measures that are the same for all seeds, or nearly so for all variants: results.json has them, the table does not."""


def table(asked: Sequence[Variant], runs: Runs, controls: Mapping[str, float]) -> Rows:
    """Lay out a header, a row for each variant, of the measures that any run has, and one for copying the last frame."""
    shown = [name for name in MEASURES if name not in ASIDE and any(name in values for values in runs.values())]
    rows: Rows = [("variant", *(MEASURES[name].title for name in shown), "seeds")]
    for variant in asked:
        cells, seeds = [], 0
        for measure in shown:
            values = list(values_of(runs, variant.name, measure).values())
            seeds = max(seeds, len(values))
            cells.append(cell(estimate(values), MEASURES[measure].digits) if values else "-")
        rows.append((label(variant, asked[0]), *cells, str(seeds)))
    copied = {name: controls[f"{name} of copying"] for name in shown if f"{name} of copying" in controls}
    if copied:
        cells = [f"{copied[name]:.{MEASURES[name].digits}f}" if name in copied else "-" for name in shown]
        rows.append(("copying the last frame", *cells, "-"))
    return rows


def label(variant: Variant, baseline: Variant) -> str:
    """Name what a variant differs in; of the baseline, all that it is."""
    differs = [f"{name.replace('_', '-')} {value}" for name, value in vars(variant).items() if value != getattr(baseline, name)]
    if differs:
        return ", ".join(differs)
    return f"baseline: {variant.codec}, {variant.feed_forward}, {variant.prediction}, shift {variant.shift}"


def cell(value: Estimate, digits: int) -> str:
    """Format a mean with half of its interval."""
    if value.half is None:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} +- {value.half:.{digits}f}"


def findings_table(outcomes: Sequence[Outcome]) -> Rows:
    """Lay out a header, and a row for each finding."""
    rows: Rows = [("comparison", "measured by", "the paper", "here", "gain of the first [95 %]", "the finding")]
    for outcome in outcomes:
        finding, measure = outcome.finding, MEASURES[outcome.finding.measure]
        digits = measure.digits
        here, gain = "not measured of both", "-"
        if outcome.means is not None and outcome.gain is not None:
            here = " against ".join(f"{mean:.{digits}f}" for mean in outcome.means)
            interval = outcome.interval
            spread = f"[{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]" if interval else "(one seed, no interval)"
            gain = f"{outcome.gain.mean:+.{digits}f} {spread}"
        comparison = f"{finding.what}: {finding.better} against {finding.worse}"
        rows.append((comparison, measure.title, finding.paper, here, gain, outcome.verdict))
    return rows


def markdown(rows: Rows) -> str:
    """Format the same rows as a Markdown table."""
    head, *body = (" | ".join("" if text == "-" else text.replace("+-", "±") for text in row) for row in rows)
    return "\n".join(f"| {line} |" for line in (head, " | ".join("---" for _ in rows[0]), *body)) + "\n"


def page(
    asked: Sequence[Variant], runs: Runs, controls: Mapping[str, float], outcomes: Sequence[Outcome], steps: int, shift: float | None
) -> str:
    """Write both tables and the notes as Markdown; `shift` is the preset's strength of it, None for RAE's rule."""
    seeds = sorted({seed for _, seed in runs})
    strength = "by RAE's rule" if shift is None else f"of strength {shift:g}"
    head = f"# Ablation\n\n{steps} steps, seeds {', '.join(map(str, seeds))}; the shift is {strength}.\n\n"
    notes = "".join(f"- {note}\n" for note in NOTES)
    return f"{head}{markdown(table(asked, runs, controls))}\n{markdown(findings_table(outcomes))}\n{notes}"
