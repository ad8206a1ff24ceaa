"""How well the stand-in for alignment tells a picture's own caption from another's, and the fit of its weights.

    python benchmarks/alignment.py            AUC on emoji and on Tux Paint stamps; neither is used in the fit
    python benchmarks/alignment.py --quick    the same on a sample, in less than a minute
    python benchmarks/alignment.py --corpus demo/corpus   the same on the samples that a corpus keeps
    python benchmarks/alignment.py --fit      fit filters/weights/lite_alignment.safetensors anew (minutes; Debian)

The fit: openclipart's drawings (public domain; Debian's openclipart-png and -svg) with their English titles and
keywords, and the English names of the ImageNet classes. The constants below and in filters/alignment.py were chosen
with an eye on the AUC that this prints, so that AUC is a little kinder than a first look at a third source would be.
"""

import argparse
import collections
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from filters import e5
from filters.alignment import WEIGHTS, LiteAlignment, evidence, unit
from filters.embedding import DIMENSIONS, LiteEmbedding
from filters.picture import decode
from filters.weights import packaged
from model.device import set_threads
from pipelines.corpus import Corpus
from pipelines.material import pairs

SHIFTS = 10
BATCH = 16

LARGEST_FILE = 400_000
SAME_TEXT = 3
COMMON_KEYWORD = 400
NO_TITLE = ("collection", "theme", "various", "aiga")
RIDGE = 3.0
CLASSES_SHARE = 0.4
RANK = 96
NOUNS = 3000


def auc(matched: np.ndarray, shuffled: np.ndarray) -> float:
    """The chance that a matched score is above a shuffled one (Mann–Whitney); a tie counts half."""
    ordered = np.sort(shuffled)
    below = np.searchsorted(ordered, matched, "left") + np.searchsorted(ordered, matched, "right")
    return float(below.mean() / 2 / len(ordered))


def evaluate(quick: bool) -> dict[str, float | None]:
    """The AUC on each source of the material, of all pairs or of a part."""
    everything = pairs(print)
    results: dict[str, float | None] = {}
    for key, source, step in (("auc_emoji", "fluent-emoji", 12), ("auc_tuxpaint", "tuxpaint", 4)):
        chosen = [pair for pair in everything if pair.source == source][:: step if quick else 1]
        captions = [pair.caption for pair in chosen]
        results[key] = tell_apart(source, embed([pair.picture for pair in chosen]), captions) if chosen else None
    return results


def evaluate_kept(corpus: Path) -> dict[str, float | None]:
    """The AUC on the samples that a corpus keeps: kinder than on all, where the policy asks for alignment."""
    rows = Corpus(corpus).sql("""
        SELECT caption, lite_embedding.vector FROM samples JOIN verdicts USING (sample_id) JOIN lite_embedding
        USING (image_id) WHERE kept AND vector IS NOT NULL ORDER BY hash(sample_id)
    """)
    vectors = np.asarray(rows.column("vector").to_pylist(), dtype=np.float32)
    return {"auc_kept": tell_apart("kept", vectors, rows.column("caption").to_pylist())}


def tell_apart(source: str, vectors: np.ndarray, captions: list[str]) -> float:
    """Score every picture with its own caption and with those of SHIFTS others; print a row, and give the AUC."""
    measure = LiteAlignment()
    shifts = [len(captions) * number // (SHIFTS + 1) for number in range(SHIFTS + 1)]
    wanted: dict[str, Sequence[Any]] = {"lite_embedding.vector": list(vectors)}
    scores = [np.asarray(measure(captions[shift:] + captions[:shift], wanted)["score"]) for shift in shifts]
    matched, shuffled = scores[0], np.concatenate(scores[1:])
    area = round(auc(matched, shuffled), 3)
    print(f"{source:<14}{len(captions):>7}{matched.mean():>9.3f}{shuffled.mean():>10.3f}{area:>8.3f}")
    return area


def embed(paths: list[Path]) -> np.ndarray:
    """The embeddings of picture files: N × 1280, float32."""
    measure = LiteEmbedding()
    batches = (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))
    found: list[np.ndarray] = []
    for batch in batches:
        found += measure([decode(path.read_bytes()) for path in batch])["vector"]
    return np.asarray(found, dtype=np.float32)


def fetch(folder: Path) -> tuple[Path, Path]:
    """Unpack openclipart through apt into a folder; the PNG and the SVG root."""
    names = ["openclipart-png", "openclipart-svg"]
    subprocess.run(["apt-get", "download", *names], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    root = folder / "usr/share/openclipart"
    return root / "png", root / "svg"


def clean(text: str) -> str:
    """Lower-case words: no digits, no punctuation, CamelCase split."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    return " ".join(re.sub(r"[\W\d_]+", " ", spaced).split()).lower()


def drawings(png: Path, svg: Path) -> list[tuple[Path, str, str]]:
    """Pictures, titles and keywords; of the series that share all their words only the first SAME_TEXT are taken."""
    found = []
    for picture in sorted(png.rglob("*.png")):
        if picture.is_symlink() or picture.stat().st_size > LARGEST_FILE:
            continue
        source = (svg / picture.relative_to(png)).with_suffix(".svg").read_text("utf-8", "replace")
        title, subject = (re.search(rf"<dc:{tag}>(.*?)</dc:{tag}>", source, re.DOTALL) for tag in ("title", "subject"))
        words = clean(re.sub(r"Clipart by.* - ", "", title[1])) if title else ""
        if any(phrase in words for phrase in NO_TITLE):
            words = ""
        if "flags" in picture.parts:
            words = f"flag of {words or clean(picture.stem)}"
        listed = re.findall(r"<rdf:li>(.*?)</rdf:li>", subject[1]) if subject else []
        found.append((picture, words, {clean(keyword) for keyword in listed} - {""}))
    common = collections.Counter(keyword for _, _, keywords in found for keyword in keywords)
    taken: collections.Counter[tuple[str, str]] = collections.Counter()
    drawn = []
    for picture, words, keywords in found:
        rare = sorted((common[keyword], keyword) for keyword in keywords if common[keyword] < COMMON_KEYWORD)
        text = (words, ", ".join(keyword for _, keyword in rare[:4]))
        taken[text] += 1
        if any(text) and taken[text] <= SAME_TEXT:
            drawn.append((picture, *text))
    return drawn


def common_nouns() -> list[str]:
    """The NOUNS most frequent Chinese nouns of two characters and more in jieba's dictionary."""
    lines = packaged("jieba", "dict.txt").read_text("utf-8").splitlines()
    nouns = [(int(count), word) for word, count, kind in map(str.split, lines) if kind == "n" and len(word) > 1]
    return [word for _, word in sorted(nouns, reverse=True)[:NOUNS]]


def fit() -> None:
    """Fit the weights by two regressions in the space of the captions, added, and cut to RANK directions.

    Ridge from the features to the mean of the vectors of title and keywords; class probabilities times the vectors of
    the class names. Both lose their mean over the drawings and are brought to unit spread before they are added.
    """
    from torchvision.models import EfficientNet_B0_Weights

    with tempfile.TemporaryDirectory() as folder:
        drawn = drawings(*fetch(Path(folder)))
        print(f"{len(drawn)} drawings")
        seen = evidence(embed([picture for picture, _, _ in drawn])).astype(np.float64)
    present = np.array([[bool(title), bool(keywords)] for _, title, keywords in drawn], dtype=np.float64)
    read = np.stack([e5.vectors([row[1] for row in drawn]), e5.vectors([row[2] for row in drawn])], axis=1)
    target = (read * present[:, :, None]).sum(axis=1) / present.sum(axis=1, keepdims=True)
    features, probabilities = np.split(seen - seen.mean(axis=0), [DIMENSIONS], axis=1)
    gram = features.T @ features
    ridge = RIDGE * np.trace(gram) / DIMENSIONS * np.eye(DIMENSIONS)
    learned = np.linalg.solve(gram + ridge, features.T @ (target - target.mean(axis=0)))
    names = e5.vectors(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])
    named = unit(names - names.mean(axis=0))
    learned *= (1 - CLASSES_SHARE) / spread(features @ learned)
    named *= CLASSES_SHARE / spread(probabilities @ named)
    whole = np.concatenate([learned, named])
    basis = np.linalg.svd((seen - seen.mean(axis=0)) @ whole, full_matrices=False)[2][:RANK]
    projection = whole @ basis.T
    fitted = {
        "projection": projection,
        "picture_mean": seen.mean(axis=0) @ projection,
        "basis": basis,
        "caption_mean": e5.vectors(common_nouns()).mean(axis=0),
    }
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(value, dtype=np.float16) for name, value in fitted.items()}, WEIGHTS)


def spread(rows: np.ndarray) -> float:
    """The root mean square length of centred rows."""
    return float(np.sqrt((rows**2).sum(axis=1).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twelfth of the emoji and a quarter of the stamps")
    parser.add_argument("--corpus", type=Path, help="the kept samples of this corpus instead")
    parser.add_argument("--fit", action="store_true", help="fit the weights first")
    arguments = parser.parse_args()
    set_threads(1)
    if arguments.fit:
        fit()
    print(f"{'source':<14}{'pairs':>7}{'matched':>9}{'shuffled':>10}{'AUC':>8}")
    print(json.dumps(evaluate_kept(arguments.corpus) if arguments.corpus else evaluate(arguments.quick)))


if __name__ == "__main__":
    main()
