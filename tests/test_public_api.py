from __future__ import annotations

import ast
import json
import statistics
import sys
from importlib import metadata
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

import imageprocessor as ip
from tests.images import encode, photo

DATA = encode(photo(200, 100), "JPEG")
STANDARD = set(sys.stdlib_module_names)


def in_new_process(code: str) -> Any:
    done = run(
        [sys.executable, "-c", f"import json, sys, time\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_readme_calls_work() -> None:
    assert ip.validate(DATA) == ip.ImageInfo("JPEG", "image/jpeg", 200, 100, 1)
    assert ip.strip_metadata(DATA).startswith(b"\xff\xd8")
    assert ip.dominant_color(DATA).startswith("#")
    card = ip.VariantSpec("card", width=40, quality=80)
    result = ip.process(DATA, variants=[card], limits=ip.Limits(max_pixels=10_000_000))
    variant = result.variants["card"]
    assert (variant.width, variant.height, variant.aspect_ratio, variant.format) == (
        40,
        20,
        2.0,
        "webp",
    )
    assert variant.size_bytes == len(variant.data)
    assert result.original_dimensions == ip.Dimensions(200, 100)
    store = ip.open_storage("memory://")
    store.put("a/b.webp", variant.data)
    assert store.get("a/b.webp") == variant.data


@pytest.mark.parametrize("name", [*ip.__all__, "__version__"])
def test_every_public_name_exists_and_is_listed(name: str) -> None:
    if name == "__version__":
        try:
            expected = metadata.version("imageprocessor")
        except metadata.PackageNotFoundError:
            pytest.skip("the package runs from source and is not installed")
        assert ip.__version__ == expected
    assert getattr(ip, name) is not None
    assert name in dir(ip)


def test_input_errors_are_public_and_share_one_base() -> None:
    kinds = {kind.__name__: kind for kind in ip.InputError.__subclasses__()}
    assert set(kinds) <= set(ip.__all__)
    assert all(issubclass(kind, ip.ImageProcessorError) for kind in kinds.values())
    with pytest.raises(ip.EmptyFileError) as caught:
        ip.process(b"")
    assert caught.value.code == "file_empty"


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(ip.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {
        alias.asname: node.module
        for node in imports
        for alias in node.names
        if alias.asname is not None
    }
    assert seen == {name: f"imageprocessor.{module}" for name, module in ip._HOMES.items()}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'procces'"):
        _ = ip.procces  # type: ignore[attr-defined]


def test_star_import_gives_the_public_names() -> None:
    names = in_new_process(
        "from imageprocessor import *\nprint(json.dumps([n for n in dir() if n[0] != '_']))"
    )
    assert set(ip.__all__) <= set(names)


def test_core_loads_nothing_but_pillow_filetype_and_the_standard_library() -> None:
    use_all = f"import imageprocessor as ip\nfor name in {ip.__all__}: getattr(ip, name)"
    loaded = in_new_process(f"{use_all}\nprint(json.dumps(list(sys.modules)))")
    roots = {name.partition(".")[0] for name in loaded}
    started_with = {
        name.partition(".")[0] for name in in_new_process("print(json.dumps(list(sys.modules)))")
    }
    assert roots - started_with - STANDARD == {"PIL", "filetype", "imageprocessor"}


def test_processing_loads_no_pillow_plugin_for_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(DATA)
    use = f"import imageprocessor as ip\nip.process({str(path)!r})"
    loaded = set(in_new_process(f"{use}\nprint(json.dumps(list(sys.modules)))"))
    assert {"PIL.JpegImagePlugin", "PIL.WebPImagePlugin"} <= loaded
    assert not {"PIL.EpsImagePlugin", "PIL.PdfImagePlugin", "PIL.PsdImagePlugin"} & loaded


def test_import_costs_little_beyond_pillow_and_filetype() -> None:
    timed = """
import PIL.Image, filetype
began = time.perf_counter()
import imageprocessor
print(time.perf_counter() - began)
"""
    assert statistics.median(in_new_process(timed) for _ in range(5)) < 0.040
