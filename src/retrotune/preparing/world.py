"""The demo world: writes the files of all six datasets, of Wikipedia and of the pretraining text below one folder."""

from pathlib import Path

from retrotune.data.datasets import SPECS
from retrotune.data.demo.facts import PASSAGE_WORDS
from retrotune.data.demo.layouts import Demo, write_wikipedia
from retrotune.data.demo.names import SPLITS, Namer, Split, seeded
from retrotune.data.demo.scenes import Scene, draw_page, draw_quiz, draw_scene, page_title
from retrotune.runtime.files import write_json, write_text
from retrotune.runtime.log import logger
from retrotune.study.config import World
from retrotune.study.stages import WriteWorldParams

DEMOS = {name: spec.demo for name, spec in SPECS.items() if spec.demo is not None}
"""Parts of the world, by dataset."""
DEV_SHARE = 3
"""Where a dataset has a third split, it gets a third of the test documents, with names of its own."""


def write_world(params: WriteWorldParams, root: str | Path) -> None:
    """Write the world below `root`; the same parameters give the same bytes. `world.json` is written last.

    Below `root`: nq, triviaqa, narrativeqa, qasper, quality and qmsum in their official layouts,
    wikipedia/psgs_w100.tsv.gz (one passage per page of the open-domain documents), pretraining/pages.txt (documents
    between blank lines under headings as in WikiText) and pretraining/quizzes.txt (paragraphs: questions about one
    page with their answers). Raises `ConfigError` if the counts ask for more names than there are.
    """
    world, root = params.world, Path(root)
    (root / "world.json").unlink(missing_ok=True)
    for stale in (root / "narrativeqa" / "tmp").glob("*.content"):  # named by content: another world's would stay
        stale.unlink()
    namers = {split: Namer(split) for split in SPLITS}
    counts: dict[str, object] = {"pretraining": _write_pretraining(root / "pretraining", world, namers["pretraining"])}

    articles: list[tuple[str, str]] = []
    for dataset, demo in DEMOS.items():
        scenes = _draw_scenes(dataset, demo, world, namers)
        demo.write(root / dataset, scenes, seeded(world.seed, dataset, "layout"))
        drawn = [scene for split in scenes.values() for scene in split]
        if SPECS[dataset].open_domain:
            articles += [(page.subject, page.text) for scene in drawn for page in scene.pages]
        counts[dataset] = {
            split: {"documents": len(some), "questions": sum(len(scene.questions) for scene in some)}
            for split, some in scenes.items()
        }
    seeded(world.seed, "wikipedia").shuffle(articles)
    write_wikipedia(root / "wikipedia" / "psgs_w100.tsv.gz", articles)
    counts["wikipedia"] = {"passages": len(articles)}

    content = {
        "params": params.recorded(),
        "passage_words": PASSAGE_WORDS,
        "counts": counts,
    }
    write_json(root / "world.json", content)
    logger.info("%s: demo world of %d pages to pretrain on", root, world.pretraining_pages)


def _draw_scenes(dataset: str, demo: Demo, world: World, namers: dict[Split, Namer]) -> dict[Split, list[Scene]]:
    documents: dict[Split, int] = {
        "train": world.train_documents,
        "test": world.test_documents,
        "dev": max(1, world.test_documents // DEV_SHARE),
    }
    scenes: dict[Split, list[Scene]] = {}
    for split in demo.splits:
        rng = seeded(world.seed, dataset, split)
        number = world.questions_per_document
        scenes[split] = [draw_scene(demo.family, namers[split], rng, number) for _ in range(documents[split])]
    return scenes


def _write_pretraining(folder: Path, world: World, namer: Namer) -> dict[str, int]:
    rng = seeded(world.seed, "pretraining")
    families = [demo.family for demo in DEMOS.values()]
    pages, quizzes = [], []
    for _ in range(world.pretraining_pages):
        family = rng.choice(families)
        page = draw_page(family, namer, rng)
        pages.append(f"= {page_title(family, page, namer, rng)} =\n{family.lead(page.speaker)}{page.text}\n")
        quizzes.append("\n".join(draw_quiz(page, rng)) + "\n")
    rng.shuffle(quizzes)
    write_text(folder / "pages.txt", "\n".join(pages))
    write_text(folder / "quizzes.txt", "\n".join(quizzes))
    return {"pages": len(pages), "quizzes": len(quizzes)}
