r"""The benchmarks there are: where each one's rows come from, how many there must be, how old they are.

What nobody here could download is marked unverified. Revisions are those that public code pins ("main" where no pin was
found), row counts those of the hub's dataset cards, hashes those of the papers' files, whose answers the hub may spell
otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Cells = tuple[str, Any, Sequence[str]]  # problem, right answer, all choices (none for mathematics)


def columns(problem: str, answer: str) -> Callable[[Row], Cells]:
    """A reader of rows that hold problem and answer under these names."""
    return lambda row: (row[problem], row[answer], ())


def gpqa_cells(row: Row) -> Cells:
    """A row in GPQA's layout."""
    choices = [row[column] for column in ("Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3)))]
    return row["Question"], choices[0], choices


def mmlu_pro_cells(row: Row) -> Cells:
    """A row in MMLU-Pro's layout."""
    right = row["options"][int(row["answer_index"])]
    # Its authors' own script drops these fillers too.
    return row["question"], right, [text for text in row["options"] if text == right or text.strip() != "N/A"]


def arc_cells(row: Row) -> Cells:
    """A row in ARC's layout."""
    labels, texts = row["choices"]["label"], row["choices"]["text"]  # A to E, or 1 to 5
    return row["question"], texts[list(labels).index(row["answerKey"])], texts


def own_cells(row: Row) -> Cells:
    """A row of a user's file, in whichever of the known layouts it is; KeyError for another."""
    if "Correct Answer" in row:
        return gpqa_cells(row)
    if row.get("options") is not None:
        return mmlu_pro_cells(row)
    if row.get("choices") is not None:
        return arc_cells(row)
    problem = next(
        (name for name in ("problem", "question", "prompt", "Problem", "Question") if name in row), "problem"
    )
    answer = next((name for name in ("answer", "final_answer", "Short Answer", "Answer") if name in row), "answer")
    if isinstance(row[problem], list):  # chat messages
        return row[problem][-1]["content"], row[answer], ()
    return row[problem], row[answer], ()


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as users give it; its lm-eval task is `trapo_<name>`.
        kind: "math", graded by algebra; "choice", by the boxed letter; "world", the built-in world's rows.
        rows: how many questions it may have; empty where the caller decides.
        samples: of each question, by default: 32 where its authors or the papers give avg@32 or it has few, else 1.
        read: a row in the hub's layout -> problem, right answer, choices.
        hub_id, config, split, revision: of the hub's dataset; hub_id is None for what is not there.
        revision_verified: whether anyone here has downloaded that revision and found `content_hash`.
        content_hash: of the papers' questions, see `content_hash`; None where nobody here has seen them.
        released: year and month in which its questions came out, for who asks whether a model may have seen them.
        licence: of the rows; empty where none was found.
        files: names, without ending, under which the papers' folders have it, besides its own.
        url, sha256: of a file that is not on the hub, and its SHA-256 as public code pins it.
        repairs: what is wrong in that very file: bytes there, and what they must be.
        note: what a reader of its numbers must know.
        path: the user's own file.
    """

    name: str
    kind: str
    rows: tuple[int, ...]
    samples: int
    read: Callable[[Row], Cells]
    hub_id: str | None = None
    config: str | None = None
    split: str = "test"
    revision: str = "main"
    revision_verified: bool = False
    content_hash: str | None = None
    released: str | None = None
    licence: str = ""
    files: tuple[str, ...] = ()
    url: str | None = None
    sha256: str | None = None
    repairs: tuple[tuple[bytes, bytes], ...] = ()
    note: str = ""
    path: Path | None = None


_PROBLEM, _PROMPT = columns("problem", "answer"), columns("prompt", "answer")
_ARENA = {"split": "train", "licence": "cc-by-nc-sa-4.0"}  # MathArena's (arXiv 2505.23281)

# `released`: the month of the contest, or of the paper or page that brought the questions out.
BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark("aime24", "math", (30,), 32, _PROBLEM, "HuggingFaceH4/aime_2024", split="train",
            revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a", content_hash="bad2768cab7db517",
            released="2024-02", files=("valid.aime", "valid.aime24")),
        Benchmark("aime25", "math", (30,), 32, _PROBLEM, "math-ai/aime25",
            revision="563bb8404243c5f09de6ec262f2db674fe5bce9b", content_hash="20163a6125362aa4",
            released="2025-02"),
        # Not math-ai/amc23, which has 40 of them.
        Benchmark("amc23", "math", (83,), 32, _PROBLEM, "AI-MO/aimo-validation-amc", split="train",
            revision="69d78a4a2c840e82d69af6bc742bda09005f6316", content_hash="2d7da75a8d807674",
            released="2023-11", files=("valid.amc",)),
        Benchmark("math500", "math", (500,), 1, _PROBLEM, "HuggingFaceH4/MATH-500",
            revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", content_hash="7156baeddb14a114",
            released="2021-03", files=("valid.math", "valid.math_500")),  # arXiv 2103.03874
        Benchmark("minerva", "math", (272,), 1, columns("question", "answer"), "math-ai/minervamath",
            content_hash="4c52b2dc11600b08", released="2022-06",  # arXiv 2206.14858
            files=("valid.minerva", "valid.minerva_math", "valid.minervamath")),
        Benchmark("olympiad", "math", (674, 675), 1, columns("question", "final_answer"), "math-ai/olympiadbench",
            content_hash="bd192db9b71829fe",  # the hub's 674; the papers' file has 675
            released="2024-02", files=("valid.olympiad_bench", "valid.olympiadbench")),  # arXiv 2402.14008
        Benchmark("aime26", "math", (30,), 32, _PROBLEM, "MathArena/aime_2026", **_ARENA,
            revision="d2de22f3c656b4f56cf8981212186377d1e23bc3", released="2026-02", files=("aime_2026",)),
        Benchmark("hmmt_feb25", "math", (30,), 32, _PROBLEM, "MathArena/hmmt_feb_2025", **_ARENA,
            revision="6fdc4277120810ff75aa22d2d5489b91f7a262a1", released="2025-02", files=("hmmt_feb_2025",)),
        Benchmark("hmmt_feb26", "math", (33,), 32, _PROBLEM, "MathArena/hmmt_feb_2026", **_ARENA,
            released="2026-02", files=("hmmt_feb_2026",)),
        Benchmark("brumo25", "math", (30,), 32, _PROBLEM, "MathArena/brumo_2025", **_ARENA,
            revision="6de9bc0987f5710c6376ee980e1483dbeb55cfda", released="2025-04", files=("brumo_2025",)),
        Benchmark("cmimc25", "math", (40,), 32, _PROBLEM, "MathArena/cmimc_2025", **_ARENA,
            revision="8f27517ce4ad1d05e023c0e7eca4344754ba2a04", released="2025-03", files=("cmimc_2025",)),
        # arXiv 2511.01846. Of its second version, which replaces wrong answers of the first. Two slips of that file are
        # public: a quote is missing (issue 13 of its repository), and a spreadsheet made a date of "4, 5".
        Benchmark("imo_answer", "math", (400,), 1, columns("Problem", "Short Answer"), released="2025-11",
            licence="cc-by-4.0", files=("answerbench_v2", "imo_answerbench"),
            url="https://github.com/google-deepmind/superhuman/blob/80b2527a0b4e4bfc6a8b28825fadbdcfdd6048a1/imobench/"
            "answerbench_v2.csv", sha256="275877a9d988d85278fad3a5f8a41d7f83393a60bf259531ec0a5161e6b21cf9",
            repairs=((b'\n,"$Y(x)=A+', b'\n","$Y(x)=A+'), (b",45752,", b',"4, 5",')),
            note="its problems are altered ones of older olympiads, and its authors grade by a language model"),
        Benchmark("amo", "math", (50,), 32, _PROMPT, "meituan-longcat/AMO-Bench", licence="mit", released="2025-10",
            files=("amo_bench",),  # arXiv 2510.26768
            note="11 of its answers are descriptions, which its authors grade by a language model"),
        Benchmark("beyond_aime", "math", (100,), 8, _PROBLEM, "ByteDance-Seed/BeyondAIME",
            revision="c705198ae1043810b1e1693bd879250b51a7a523", released="2025-04",  # arXiv 2504.13914
            files=("beyondaime",)),
        Benchmark("gpqa", "choice", (198,), 1, gpqa_cells, "Idavidrein/gpqa", "gpqa_diamond", "train",
            revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd", released="2023-11",  # arXiv 2311.12022
            licence="cc-by-4.0", files=("valid.gpqa_diamond",)),
        Benchmark("mmlu_pro", "choice", (12_032,), 1, mmlu_pro_cells, "TIGER-Lab/MMLU-Pro",
            revision="b189ec765aa7ed75c8acfea42df31fdae71f97be", released="2024-06", licence="mit"),  # arXiv 2406.01574
        Benchmark("arc_c", "choice", (1_172,), 1, arc_cells, "allenai/ai2_arc", "ARC-Challenge",
            revision="210d026faf9955653af8916fad021475a3f00453", released="2018-03",  # arXiv 1803.05457
            licence="cc-by-sa-4.0", files=("valid.arc",)),
        # Held-out problems, and two probes of what training lets the model forget.
        *(Benchmark(f"world_{part}", "world", (), 1, _PROMPT) for part in ("test", "direct", "facts")),
    )
}  # fmt: skip
GROUPS = {
    "math": ("aime24", "aime25", "amc23", "math500", "minerva", "olympiad"),
    "contests": (
        "aime26", "hmmt_feb25", "hmmt_feb26", "brumo25", "cmimc25", "imo_answer", "amo", "beyond_aime",
    ),
    "general": ("gpqa", "mmlu_pro", "arc_c"),
    "world": ("world_test", "world_direct", "world_facts"),
    "all": tuple(BENCHMARKS),
}  # fmt: skip
