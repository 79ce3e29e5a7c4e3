"""The report as one HTML file, which shows everything and runs nothing."""

import base64
from pathlib import Path

from delivery.report_page import page

PNG = b"\x89PNG of the matrix"
REPORT = """# landcover: \N{WHITE HEAVY CHECK MARK} the gate is open

| floor | measured |
|:------|:---------|
| `accuracy` | `0.95` |

![Confusion matrix](pictures/confusion.png)
"""


def test_a_page_has_tables_and_its_pictures_inside(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "confusion.png").write_bytes(PNG)
    text = page(REPORT, tmp_path)
    assert "<title>landcover: \N{WHITE HEAVY CHECK MARK} the gate is open</title>" in text
    assert "><code>0.95</code></td>" in text
    picture = base64.b64encode(PNG).decode()
    assert f'<img src="data:image/png;base64,{picture}" alt="Confusion matrix"' in text


def test_texts_of_others_run_nothing_and_load_no_file(tmp_path: Path) -> None:
    (tmp_path.parent / "outside.png").write_bytes(PNG)
    evil = "# <script>alert(1)</script>\n\n```\n</pre><script>alert(2)</script>\n```\n\n"
    text = page(f"{evil}![x](../outside.png) ![y](http://evil/y.png)", tmp_path)
    assert "default-src 'none'; img-src data:" in text and "form-action 'none'" in text
    assert "&lt;script&gt;alert(2)" in text
    assert "<title>&lt;script&gt;alert(1)&lt;/script&gt;</title>" in text
    assert base64.b64encode(PNG).decode() not in text
