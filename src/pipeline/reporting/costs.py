"""The section of the report about the job that trained the model: its cost, and the budgets.

reports/job.json can say anything in a merge request, so its texts are for `markdown.code` only.
"""

from contracts.jobs import JOB, Account, JobReport
from pipeline import markdown as md
from pipeline.reporting.documents import parse, titled


@titled("Job")
def job_section(model: str) -> str:
    """What the job used that trained the bundle with the SHA-256 `model`; else nothing."""
    found = parse(JobReport, JOB)
    if found is None or found.model != model:
        return ""
    took = f"{found.seconds / 60:.1f} min"
    cost = f", {found.gpu_minutes:.1f} GPU minutes" if found.gpus else ", no GPU"
    parts = [f"## Job\n\nTrained by {md.code(found.job)} in {took}{cost}."]
    if found.gpus and found.accounts:
        head = ["budget of GPU minutes", "used before", "held by others", "with this job", "limit"]
        parts.append(md.table(head, [_row(it, found.gpu_minutes) for it in found.accounts]))
    return "\n\n".join(parts)


def _row(account: Account, own: float) -> list[str]:
    limit, now = account.limit, account.used + own
    over = limit is not None and now > limit
    return [
        md.code(f"{account.scope.replace('_', ' ')} {account.name}"),
        f"{account.used:.1f}",
        f"{account.held:.1f}",
        f"{'⚠️ ' if over else ''}{now:.1f}",
        "none" if limit is None else f"{limit:g}",
    ]
