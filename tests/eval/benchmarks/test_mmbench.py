import csv
import io

from mgm.eval.benchmarks.mmbench import paper_choices, upload_rows
from tests.golden_files import golden_json


def test_choices():
    for record in golden_json("eval/converters.json")["mmbench_helpers"]["get_options"]:
        assert paper_choices(record["row"]) == record["output"]


def test_upload_equals_the_published_converter():
    record = golden_json("eval/converters.json")["mmbench"]
    rows = list(csv.DictReader(io.StringIO(record["annotation_tsv"]), delimiter="\t"))
    texts = {str(one["question_id"]): one["text"] for one in record["results"]}
    header, *body = upload_rows(rows, texts)
    assert header == record["columns"]
    for row, expected in zip(body, record["rows"], strict=True):
        own = dict(zip(header, row, strict=True))
        assert {k: "" if v is None else str(v) for k, v in own.items()} == {
            k: "" if v is None else str(v) for k, v in expected.items()
        }
