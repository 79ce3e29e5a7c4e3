"""The report as one HTML file, which a browser shows: an artifact of the merge request."""

import base64
import re
from html import escape, unescape
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

PICTURE = re.compile(r'<img src="([^"]+\.png)"')
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; }}
td, th {{ border: 1px solid #ccc; padding: 0.2em 0.6em; }}
img {{ max-width: 100%; }}
pre {{ overflow: auto; background: #f4f4f4; padding: 1em; }}
</style>
</head>
<body>
{body}</body>
</html>
"""
# Names and logs of others stand in the report: nothing in the page runs, loads or sends anything.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; "
    "base-uri 'none'"
)


def page(markdown: str, folder: Path) -> str:
    """A page of GitLab's Markdown; its pictures, files below `folder`, are inside."""
    root = folder.resolve()

    def embed(match: re.Match[str]) -> str:
        path = (root / unquote(unescape(match[1]))).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            return match[0]
        return f'<img src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"'

    body = MarkdownIt("commonmark").enable("table").render(markdown)
    title = escape(markdown.lstrip("# ").partition("\n")[0])
    return PAGE.format(policy=POLICY, title=title, body=PICTURE.sub(embed, body))
