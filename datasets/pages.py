"""Pages to look at: one self-contained HTML file each, from a Jinja template that extends `base.html`.

Whatever is put into a template is escaped; pictures and films are embedded as data, so nothing is loaded from elsewhere.
"""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from worldmodel.datasets.outputs import MARK

HERE = Path(__file__).parent


def render(template: Path, **facts: Any) -> bytes:
    """Fill in a template, which says with `{% extends "base.html" %}` that it is a page of ours."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(mark=MARK, **facts).encode()


def data_url(kind: str, content: bytes) -> str:
    """Write a file's content as the address of an `img` or `video`; `kind` is its media type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
