"""Chapter of the report page on error rates by group."""

from html import escape

from fr.console import counted
from fr.evaluation.group_rates import GroupRates, Rate
from fr.evaluation.verification import metric_text
from fr.report.html_page import inline_image


def group_chapter(rates: GroupRates, plot: bytes) -> str:
    """HTML of the table, the plot and the differentials. plot: PNG of `group_plot`."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{people}</td>{_cells(fmr)}{_cells(fnmr)}</tr>\n"
        for name, people, fmr, fnmr in rates.rows()
    )
    differentials = "".join(
        f"<tr><td>{kind.upper()}</td><td>{escape(', '.join(of.groups)) or '–'}</td>"
        f"<td>{metric_text(of.max_over_mean)}</td><td>{metric_text(of.gini)}</td></tr>\n"
        for kind, of in rates.differentials.items()
    )
    warnings = "".join(f"<li>{escape(warning)}</li>\n" for warning in rates.warnings)
    redrawn = f" 95 % intervals: people resampled {counted(rates.redrawn, 'time')}." if rates.redrawn else ""
    return f"""<h2>Error rates by group</h2>
<p class="note">{escape(rates.heading())}.{redrawn}</p>
<div class="wide"><table class="folds groups"><thead><tr><th>Group</th><th>People</th><th>FMR</th><th>95 % interval</th>
<th>False matches</th><th>FNMR</th><th>95 % interval</th><th>False non-matches</th></tr></thead>
<tbody>{rows}</tbody></table></div>
<figure>{inline_image(plot, "Error rates by group")}<figcaption>FMR of pairs of two people of one group, FNMR, and their
95 % intervals. The dashed lines are the FMR of all pairs within groups and the FNMR of all pairs.</figcaption></figure>
<div class="wide"><table class="folds groups"><thead><tr><th>Differential</th><th>Groups</th>
<th>Maximum over geometric mean</th><th>Gini coefficient</th></tr></thead>
<tbody>{differentials}</tbody></table></div>
<p class="note">Of groups with enough pairs. Groups without any difference differ by chance, too: compare the
intervals.</p>
{f'<ul class="note">{warnings}</ul>' if warnings else ""}"""


def _cells(rate: Rate | None) -> str:
    if rate is None:
        return "<td></td>" * 3
    between = "–".join(f"{end:.4f}" for end in rate.interval or ())
    return f"<td>{metric_text(rate.value)}</td><td>{between}</td><td>{rate.errors:,} / {rate.pairs:,}</td>"
