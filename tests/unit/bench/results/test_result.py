"""Results written to files, and read again."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.unit.bench.results.made import made_result, made_sample
from vpctl.bench.results.result import read_result
from vpctl.cli import bench


def test_files_are_written_and_can_be_read_again(tmp_path: Path) -> None:
    result = made_result(samples=[made_sample()])
    output, xml = tmp_path / "r.json", tmp_path / "r.xml"
    shown = bench.written(result, output=output, junit_xml=xml)
    again = read_result(output)
    assert again.samples == result.samples
    assert again.as_json() == json.loads(json.dumps(shown.data))
    assert (tmp_path / "r.raw.jsonl.gz").exists()
    assert ET.parse(xml).getroot().tag == "testsuites"
