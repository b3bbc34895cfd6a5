"""Generate the parts of the documentation that come from the code, such as the settings.

``python docs/generate.py`` updates them in place; a test fails if they are out of date.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from imageprocessor.cli.app import app
from imageprocessor.core.transformations.grammar import OPERATIONS, Transformation
from imageprocessor.environment import show_value
from imageprocessor.errors import (
    ImageProcessorError,
    InvalidTransformationError,
    JobError,
    UnexpectedError,
)
from imageprocessor.queue.metrics.families import COUNTED, STATE, Counter, Metric
from imageprocessor.server.problems import PROBLEMS, find_problem
from imageprocessor.settings import Settings, accepted_form

DOCS = Path(__file__).parent
PART = re.compile(
    r"(?P<begin><!-- generated: (?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def render_page(page: Path) -> str:
    """Return the text of *page* with its generated parts updated."""

    def render_part(part: re.Match[str]) -> str:
        make = PARTS[part["name"]]
        return f"{part['begin']}\n{make()}\n\n{part['end']}"

    return PART.sub(render_part, page.read_text("utf-8"))


def make_settings_table() -> str:
    """Return a row for each setting: its name and default, its meaning and what it accepts."""
    defaults = Settings()
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default if field.default_factory is None else getattr(defaults, name)
        setting = f"`{name.upper()}`<br>{show_default(default)}"
        meaning = f"{field.description or ''}<br>*{accepted_form(name)}*"
        rows.append((setting, meaning))
    return make_table(("Setting, default", "Meaning, *accepted values*"), rows)


def show_default(default: Any) -> str:
    """Return *default* as written in the environment, or a dash if it is unset."""
    if isinstance(default, dict):
        text = json.dumps(default, separators=(",", ":"))
    else:
        text = show_value(default)
    return f"`{text}`" if text else "–"


def make_operations_table() -> str:
    """Return a row for each operation, in the order in which they apply."""
    described = re.findall(
        r"^    (\w+): \[\w+\] (.+?)(?=^    \w|^$)",
        inspect.getdoc(Transformation) or "",
        re.DOTALL | re.MULTILINE,
    )
    meanings = {field: " ".join(text.split()) for field, text in described}
    rows = [(f"`{each.key}_`", f"`{each.field}`", meanings[each.field]) for each in OPERATIONS]
    return make_table(("In text", "In Python", "Meaning"), rows)


def make_errors_table() -> str:
    """Return a row for each error, in the order of the tree."""
    rows = []
    for error in walk_tree(ImageProcessorError):
        names = f"`{error.code}`<br>{error.__name__}"
        status = show_status(error) + (", retryable" if error.retryable else "")
        rows.append((names, status, meaning(error)))
    return make_table(("Code, class", "HTTP status", "Meaning"), rows)


def make_errors_tree() -> str:
    """Return the tree of errors, with the leaves of a class on one line."""
    return "\n".join(["```text", *draw_branch(ImageProcessorError), "```"])


def draw_branch(error: type[ImageProcessorError], depth: int = 0) -> Iterator[str]:
    """Yield the lines of *error* and of every class below it."""
    yield "  " * depth + error.__name__
    children = error.__subclasses__()
    indent = "  " * (depth + 1)
    leaves = " · ".join(child.__name__ for child in children if not child.__subclasses__())
    yield from wrap(leaves, 96, initial_indent=indent, subsequent_indent=indent)
    for child in children:
        if child.__subclasses__():
            yield from draw_branch(child, depth + 1)


def walk_tree(error: type[ImageProcessorError]) -> Iterator[type[ImageProcessorError]]:
    """Yield *error* and every class below it."""
    yield error
    for child in error.__subclasses__():
        yield from walk_tree(child)


def show_status(error: type[ImageProcessorError]) -> str:
    """Return the HTTP status; a job's error is part of the response to ``/result``."""
    if error is UnexpectedError:
        return "500, or 422 in `/result`"
    if find_problem(error) != PROBLEMS[ImageProcessorError]:
        return str(find_problem(error)[0])
    is_outcome = issubclass(error, JobError) and error is not JobError
    ends_jobs = is_outcome or error is InvalidTransformationError
    return "422 in `/result`" if ends_jobs else "–"


def meaning(error: type[ImageProcessorError]) -> str:
    """Return the docstring of *error* on one line, as Markdown."""
    return " ".join((inspect.getdoc(error) or "").split()).replace("``", "`")


def make_command_reference() -> str:
    """Return a section for each command of the application."""
    return "\n\n".join(
        describe_command(name, command) for name, command in walk_commands(app, "imageprocessor")
    )


def make_metrics_table() -> str:
    """Return a row for each metric: its name and labels, its type and its meaning."""
    rows = []
    for metric in (*COUNTED, *STATE):
        name, kind = name_metric(metric)
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append((f"`{name}`<br>{labels}".removesuffix("<br>"), kind, metric.meaning))
    return make_table(("Name, labels", "Type", "Meaning"), rows)


def name_metric(metric: Metric) -> tuple[str, str]:
    """Return the name of a metric, as queries use it, and its type."""
    if metric in STATE:
        return metric.name, "gauge"
    if isinstance(metric, Counter):
        return f"{metric.name}_total", "counter"
    return metric.name, "histogram"


def walk_commands(group: typer.Typer, prefix: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the full name and the function of each command in *group*."""
    for command in group.registered_commands:
        assert command.callback
        name = command.name or command.callback.__name__.replace("_", "-")
        yield f"{prefix} {name}", command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance
        yield from walk_commands(inner.typer_instance, f"{prefix} {inner.name}")


def describe_command(name: str, command: Callable[..., Any]) -> str:
    """Return the section of one command: description, arguments and options."""
    rows = [describe_parameter(*parameter) for parameter in list_parameters(command)]
    text = re.sub(r"\[/?bold]", "`", inspect.getdoc(command) or "")
    table = (
        make_table(("Argument or option", "Meaning", "Default"), rows)
        if rows
        else "This command has no options."
    )
    return f"## {name}\n\n{text}\n\n{table}"


def list_parameters(
    command: Callable[..., Any],
) -> Iterator[tuple[inspect.Parameter, ArgumentInfo | OptionInfo]]:
    """Yield each parameter of *command* with its Typer declaration."""
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        (info,) = hints[parameter.name].__metadata__
        yield parameter, info


def describe_parameter(
    parameter: inspect.Parameter, info: ArgumentInfo | OptionInfo
) -> tuple[str, str, str]:
    """Return the row of one parameter: how to write it, its meaning and its default."""
    cell = ", ".join(f"`{name}`" for name in list_names(parameter, info))
    accepted = f"{cell} {show_accepted(info)}".rstrip()
    return accepted, info.help or "", show_parameter_default(parameter.default, info)


def list_names(parameter: inspect.Parameter, info: ArgumentInfo | OptionInfo) -> list[str]:
    """Return the names of a parameter as a user types them: DIR, or --out and -o."""
    if isinstance(info, ArgumentInfo):
        return [info.metavar or parameter.name.upper()]
    declared = [info.default, *(info.param_decls or ())]
    names = [name for name in declared if isinstance(name, str)]
    if any(name.startswith("--") for name in names):
        return names
    return [f"--{parameter.name}".replace("_", "-")]


def show_accepted(info: ArgumentInfo | OptionInfo) -> str:
    """Return the form or the range of the values that an option takes, if it has one."""
    if isinstance(info, OptionInfo) and info.metavar:
        return f"`{info.metavar}`"
    if info.min is None:
        return ""
    return f"{info.min} to {info.max}" if info.max is not None else f"{info.min} or more"


def show_parameter_default(default: Any, info: ArgumentInfo | OptionInfo) -> str:
    """Return a parameter's default as in the command's help, or a dash if it has none."""
    if default is inspect.Parameter.empty:
        return "required"
    if isinstance(info.show_default, str):
        return f"`{info.show_default}`"
    return "–" if default is None or default is False else f"`{default}`"


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', BAR) for cell in line)} |" for line in lines)


BAR = "\\|"  # an escaped bar in a cell
PARTS = {
    "settings": make_settings_table,
    "operations": make_operations_table,
    "errors": make_errors_table,
    "errors_tree": make_errors_tree,
    "commands": make_command_reference,
    "metrics": make_metrics_table,
}

if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.md")):
        path.write_text(render_page(path), "utf-8")
