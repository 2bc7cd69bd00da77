"""Names of files and sessions, and what is told of those that cannot be printed."""

from functools import partial
from pathlib import Path

import pytest

from hswq_core.errors import CheckpointError, HSWQError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.names import default_name, next_free, safe_file_name
from hswq_core.files.writer import CheckpointWriter, FileLayout
from hswq_core.log import get_logger
from hswq_core.options import QuantizeOptions


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "../x",
        "C:x",
        "con",
        "NUL.safetensors",
        "lpt1",
        "a\0b",
        "x ",
        " x",
        "what?",
        "half\ud83d",
        "not_utf8\udcff",
        "model.ckpt",
        "y" * 300,
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(HSWQError):
        safe_file_name(name)


def test_a_name_that_is_not_utf8_is_written_and_told_with_escapes(tmp_path: Path) -> None:
    odd = "b\udce4r"
    error = CheckpointError(f"{odd} is wrong", where=Path(odd), remedy=f"Rename {odd}")
    assert str(error) == r"b\udce4r: b\udce4r is wrong. Rename b\udce4r."
    assert error.what.encode() and error.remedy and error.remedy.encode()
    path = tmp_path / "file.safetensors"
    with CheckpointWriter(path, FileLayout({"a": ("F32", (1,))}, {"hswq.source": odd, odd: ""})) as writer:
        writer.write("a", [bytes(4)])
    with CheckpointReader(path) as reader:
        assert reader.metadata == {"hswq.source": r"b\udce4r", r"b\udce4r": ""}


def test_a_log_line_can_be_printed(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("hswq_core.test").warning("about %s", "b\udce4r")
    assert caplog.messages == [r"about b\udce4r"]


def test_names() -> None:
    assert safe_file_name("My Model v1.0") == "My Model v1.0.safetensors"
    assert safe_file_name("x.safetensors") == "x.safetensors"
    named = partial(default_name, "sub/waiREALCN_v150.safetensors", 32)
    assert named(QuantizeOptions("v1", 0.15)) == "waiREALCN_v150_hswq_r32_r0.15_v1.safetensors"
    best = QuantizeOptions("v2", budget="57%", selection="measured", rounding="calibrated", scales="channel")
    assert named(best) == "waiREALCN_v150_hswq_r32_b57pct_v2_measured_calibrated_channel.safetensors"
    assert named(QuantizeOptions(force_keep="*.to_v")).endswith("_r0.25_v2_patterns.safetensors")
    long = default_name("画" * 100 + ".safetensors", 1, QuantizeOptions())
    assert long.endswith("_hswq_r1_r0.25_v2.safetensors") and len(long.encode()) < 240 and "�" not in long
    assert default_name("a:b?c.safetensors", 1, QuantizeOptions()).startswith("a_b_c_hswq")
    assert default_name("b\udce4r.safetensors", 1, QuantizeOptions()).startswith("b_r_hswq")
    assert default_name("con.x.safetensors", 1, QuantizeOptions()).startswith("_con.x_hswq")


def test_the_next_free_name(tmp_path: Path) -> None:
    path = tmp_path / "a.v1.safetensors"
    for expected in ("a.v1.safetensors", "a.v1_2.safetensors", "a.v1_3.safetensors"):
        assert next_free(path).name == expected
        next_free(path).touch()
