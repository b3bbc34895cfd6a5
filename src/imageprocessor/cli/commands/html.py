"""``html``: the HTML that shows an image of the service."""

# ruff: noqa: PLC0415 - commands import when they run: an extra may be missing, and --help is fast
from __future__ import annotations

from typing import Annotated

import typer

from imageprocessor.cli.commands.service import PANEL, read_settings

ImageId = Annotated[
    str, typer.Argument(metavar="IMAGE_ID", help="The id of an image.", show_default=False)
]
Alt = Annotated[str | None, typer.Option(help="What the image shows, in words.")]
Sizes = Annotated[str, typer.Option(help="How wide the page shows the image, as in HTML.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module to *app*."""
    app.command(rich_help_panel=PANEL)(html)


def html(image_id: ImageId, alt: Alt = None, sizes: Sizes = "100vw") -> None:
    """Print the HTML that shows an image: srcset, width, height, placeholder.

    Its URLs begin with PUBLIC_BASE_URL, or with / if that is not set.

    Example: [bold]imageprocessor html 49186d80-3072-4a71-8f48-87005b817552 --alt "A cat"[/bold]
    """
    from imageprocessor.core.picture_html import picture_html
    from imageprocessor.queue.access import OPERATOR
    from imageprocessor.queue.images import read_image
    from imageprocessor.queue.jobs.description import describe_result
    from imageprocessor.queue.service import open_service

    settings = read_settings(quiet=True)
    with open_service(settings, creates=False) as service:
        job = read_image(service, image_id, OPERATOR)
    result = describe_result(job, settings.public_base_url)
    typer.echo(picture_html(result, alt=alt or "", sizes=sizes))
