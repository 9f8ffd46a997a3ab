"""InfoVQA: questions about infographics, with DocVQA's prompts and metric."""

from typing import ClassVar

from mgm.eval.benchmarks.docvqa import DocVQA, document_sources


class InfoVQA(DocVQA):
    """ANLS. Source: Mathew et al., "InfographicVQA" (2021), https://arxiv.org/abs/2104.12756."""

    name, title, folder = "infovqa", "InfoVQA", "infovqa"
    sizes: ClassVar = {"val": 2801, "test": 3288}
    sources = document_sources(
        "InfographicVQA", 2801, 3288, "InfoVQA_VAL.tsv", "2342e9c225222f0ef4dec545ebb126fe"
    )
