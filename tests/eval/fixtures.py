"""Small benchmarks in published formats: a few records each, with images."""

import base64
import csv
import io
import json
from pathlib import Path

from PIL import Image

Colour = str | tuple[int, int, int]


def picture(path: Path, colour: Colour) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)


def png(colour: Colour) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(content, "PNG")
    return content.getvalue()


def lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def textvqa(data: Path) -> None:
    folder = data / "textvqa"
    suffix = "\nAnswer the question using a single word or phrase."
    questions = [("a", "What BRAND is it?"), ("a", "Which year?"), ("b", "Which shop?")]
    for name, colour in (("a", "red"), ("b", "blue")):
        picture(folder / "train_images" / f"{name}.jpg", colour)
    lines(
        folder / "llava_textvqa_val_v051_ocr.jsonl",
        [
            {"question_id": image, "image": f"{image}.jpg", "category": "default",
             "text": f"{question}\nReference OCR token: ROLEX, 12{suffix}"}
            for image, question in questions
        ],
    )  # fmt: skip
    truth = [
        {"image_id": image, "question": question, "answers": [f"answer {n}"] * 10}
        for n, (image, question) in enumerate(questions)
    ]
    dump(folder / "TextVQA_0.5.1_val.json", {"data": truth})


def mme(data: Path) -> None:
    folder = data / "MME"
    release = folder / "MME_Benchmark_release_version"
    records = []
    for kind, beside in (("existence", True), ("artwork", False)):
        for number, colour in enumerate(("red", "blue")):
            name = f"{number:04}.jpg"
            folder_of_images = release / kind if beside else release / kind / "images"
            picture(folder_of_images / name, colour if beside else (90 * number, 0, 90))
            texts = folder_of_images if beside else release / kind / "questions_answers_YN"
            texts.mkdir(exist_ok=True)
            pairs = [(f"Is it {word}? Please answer yes or no.", word == colour) for word in
                     ("red", "blue")]  # fmt: skip
            (texts / f"{number:04}.txt").write_text(
                "".join(f"{question}\t{'Yes' if right else 'No'}\n" for question, right in pairs)
            )
            for question, _ in pairs:
                text = question.replace(" Please answer yes or no.", "")
                text += "\nAnswer the question using a single word or phrase."
                image = str((folder_of_images / name).relative_to(release))
                records.append(
                    {
                        "question_id": f"{kind}/{name}",
                        "image": image,
                        "text": text,
                        "category": kind,
                    }
                )
    lines(folder / "llava_mme.jsonl", records)


def mmbench(data: Path) -> None:
    folder = data / "mmbench"
    folder.mkdir(parents=True, exist_ok=True)
    image = base64.b64encode(png("red")).decode()
    columns = [
        *("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"),
        *("source", "l2-category", "comment", "split"),
    ]
    rows = [
        ["0", "Which colour?", "Look.", "red", "blue", "", "", "A", "colour", image],
        ["1", "How many?", "nan", "one", "two", "three", "", "B", "count", image],
        ["1000000", "Which colour?", "Look.", "blue", "red", "", "", "B", "colour", "0"],
    ]
    with (folder / "mmbench_dev_20230712.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(columns)
        writer.writerows([*row, "s", "l2", "nan", "dev"] for row in rows)


def mmvet(data: Path) -> None:
    folder = data / "mm-vet"
    picture(folder / "images" / "v1_0.png", "red")
    truths = {
        "v1_0": {"question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
        "v1_1": {"question": "Who?", "answer": "a cat<OR>a dog", "capability": ["rec"]},
    }
    dump(folder / "mm-vet.json", truths)
    lines(
        folder / "llava-mm-vet.jsonl",
        [
            {"question_id": n, "image": "v1_0.png", "text": truths[f"v1_{n}"]["question"]}
            for n in range(2)
        ],
    )


def mmmu(data: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    from mgm.eval.benchmarks.mmmu import SUBJECTS

    for number, subject in enumerate(SUBJECTS):
        folder = data / "MMMU" / subject
        folder.mkdir(parents=True, exist_ok=True)
        kind = "open" if number % 10 == 9 else "multiple-choice"
        row = {
            "id": f"validation_{subject}_1",
            "question": "Look at <image 1>.",
            "options": "[]" if kind == "open" else "['one', \"it's two\"]",
            "answer": "42" if kind == "open" else "B",
            "question_type": kind,
            "image_1": {"bytes": png((number, 0, 0)), "path": "1.png"},
            "image_2": {"bytes": png("blue"), "path": "2.png"},
            "image_3": None,
        }
        parquet.write_table(
            arrow.Table.from_pylist([row]), folder / "validation-00000-of-00001.parquet"
        )


def mathvista(data: Path) -> None:
    folder = data / "MathVista"
    picture(folder / "images" / "1.jpg", "red")
    common = {"image": "images/1.jpg", "unit": None, "precision": None, "choices": None}
    common |= {"metadata": {"task": "geometry problem solving"}}
    dump(
        folder / "testmini.json",
        {
            "1": common | {"question": "How many?", "question_type": "free_form",
                           "answer_type": "integer", "answer": "14"},
            "2": common | {"question": "Which?", "question_type": "multi_choice", "unit": "cm",
                           "answer_type": "text", "choices": ["3", "4"], "answer": "4"},
        },
    )  # fmt: skip


def pope(data: Path) -> None:
    folder = data / "pope"
    picture(folder / "val2014" / "1.jpg", "red")
    records = []
    for kind in ("adversarial", "popular", "random"):
        labels = [{"question_id": n, "image": "1.jpg", "label": label}
                  for n, label in enumerate(("yes", "no"), start=1)]  # fmt: skip
        lines(folder / "coco" / f"coco_pope_{kind}.json", labels)
        records += [
            {"question_id": n, "image": "1.jpg", "text": f"Is there {n}?", "category": kind}
            for n in (1, 2)
        ]
    lines(folder / "llava_pope_test.jsonl", records)


def gqa(data: Path) -> None:
    folder = data / "gqa"
    picture(folder / "data" / "images" / "1.jpg", "red")
    truths = {"20": {"answer": "red", "types": {"structural": "query"}}}
    dump(folder / "data" / "testdev_balanced_questions.json", truths)
    record = {"question_id": "20", "image": "1.jpg", "text": "Which colour?"}
    lines(folder / "llava_gqa_testdev_balanced.jsonl", [record])


def vqav2(data: Path) -> None:
    folder = data / "vqav2"
    picture(folder / "test2015" / "1.jpg", "red")
    record = {"question_id": 7, "image": "1.jpg", "text": "Which?"}
    lines(folder / "llava_vqav2_mscoco_test-dev2015.jsonl", [record])


def vizwiz(data: Path) -> None:
    folder = data / "vizwiz"
    picture(folder / "test" / "1.jpg", "red")
    lines(folder / "llava_test.jsonl", [{"question_id": 0, "image": "1.jpg", "text": "What?"}])


def seed(data: Path) -> None:
    folder = data / "seed_bench"
    picture(folder / "SEED-Bench-image" / "1.jpg", "red")
    questions = [
        {"question_id": "10", "question_type_id": 1, "data_type": "image", "answer": "A"},
        {"question_id": "v_11", "question_type_id": 2, "data_type": "video", "answer": "B"},
    ]
    content = {"question_type": {"Scene": 1, "Action": 2}, "questions": questions}
    dump(folder / "SEED-Bench.json", content)
    lines(
        folder / "llava-seed-bench.jsonl",
        [
            {"question_id": one["question_id"], "image": "SEED-Bench-image/1.jpg",
             "text": "Which?\nA. a\nB. b"}
            for one in questions
        ],
    )  # fmt: skip


def scienceqa(data: Path) -> None:
    folder = data / "scienceqa"
    picture(folder / "images" / "test" / "1" / "image.png", "red")
    dump(folder / "problems.json", {n: {"choices": ["a", "b"], "answer": 1} for n in ("1", "2")})
    dump(
        folder / "llava_test_CQM-A.json",
        [
            {"id": "1", "image": "1/image.png",
             "conversations": [{"from": "human", "value": "<image>\nWhich?\nA. a\nB. b"}]},
            {"id": "2", "conversations": [{"from": "human", "value": "Which?\nA. a\nB. b"}]},
        ],
    )  # fmt: skip


def llava_bench(data: Path) -> None:
    folder = data / "llava-bench-in-the-wild"
    picture(folder / "images" / "001.jpg", "red")
    question = {"question_id": 0, "image": "001.jpg", "text": "What?", "category": "conv"}
    lines(folder / "questions.jsonl", [question])
    lines(folder / "context.jsonl", [{"id": "001", "image": "001.jpg", "caption": "Red."}])
    lines(folder / "answers_gpt4.jsonl", [{"question_id": 0, "text": "It is red."}])


def qbench(data: Path) -> None:
    folder = data / "qbench"
    picture(folder / "images_llvisionqa" / "1.jpg", "red")
    record = {"img_path": "1.jpg", "question": "Sharp?", "candidates": ["No", "Yes"],
              "correct_ans": "Yes", "type": 0}  # fmt: skip
    dump(folder / "llvisionqa_dev.json", [record])


MAKERS = {
    "textvqa": textvqa, "mme": mme, "mmbench": mmbench, "mmvet": mmvet, "mmmu": mmmu,
    "mathvista": mathvista, "pope": pope, "gqa": gqa, "vqav2": vqav2, "vizwiz": vizwiz,
    "seed": seed, "scienceqa": scienceqa, "llava-bench": llava_bench, "qbench": qbench,
}  # fmt: skip


def make_all(data: Path) -> Path:
    for maker in MAKERS.values():
        maker(data)
    return data
