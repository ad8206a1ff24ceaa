"""How well the stand-in for alignment tells a picture's own caption from another's, and the fit of its weights.

    python benchmarks/alignment.py            AUC on emoji, Tux Paint stamps and more, by domain
    python benchmarks/alignment.py --quick    emoji and stamps alone, a sample, in less than a minute
    python benchmarks/alignment.py --corpus demo/corpus   the same on the samples that a corpus keeps
    python benchmarks/alignment.py --fit      fit filters/weights/lite_alignment.safetensors anew (minutes; Debian)

Neither emoji nor stamps nor wallpapers are in the fit; openclipart is (marked *).

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
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from filters import e5
from filters.alignment import WEIGHTS, LiteAlignment, evidence, unit
from filters.characters import is_han
from filters.embedding import DIMENSIONS, LiteEmbedding
from filters.picture import decode
from filters.weights import packaged
from model.device import set_threads
from pipelines import material
from pipelines.corpus import Corpus
from pipelines.material import pairs

SHIFTS = 10
BATCH = 16
FEWEST = 20
"""Pairs of a domain that are worth a row; with 100 of them an AUC is good to 0.03 or so."""
PLAIN = 0.1
EMOJI_GROUPS = (
    "smileys",
    "people",
    "components",
    "animals",
    "food",
    "travel",
    "activities",
    "objects",
    "symbols",
    "flags",
)

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
    """The AUC on each source of the material, of all pairs or of a part, and on each domain that has pairs enough.

    Of a domain, the others' captions are of the same domain.
    """
    everything = pairs(print)
    results: dict[str, float | None] = {}
    for name, source, step, domain in (("emoji", "fluent-emoji", 12, emoji_domain), ("tuxpaint", "tuxpaint", 4, stamp)):
        chosen = [pair for pair in everything if pair.source == source][:: step if quick else 1]
        if not chosen:
            results[f"auc_{name}"] = None
            continue
        vectors, captions = embed([pair.picture for pair in chosen]), [pair.caption for pair in chosen]
        results[f"auc_{name}"] = tell_apart(name, vectors, captions)
        kinds = [domain(pair.picture) for pair in chosen]
        for kind in sorted(set(kinds)):
            rows = [row for row, found in enumerate(kinds) if found == kind]
            if len(rows) >= FEWEST:
                area = tell_apart(f"  {kind}", vectors[rows], [captions[row] for row in rows])
                results[f"auc_{name}_{kind}"] = area
    return results if quick else results | evaluate_more()


def evaluate_more() -> dict[str, float | None]:
    """The AUC on English titles of openclipart, which are in the fit, and on Chinese names of Plasma's wallpapers."""
    with tempfile.TemporaryDirectory() as folder:
        packages = ("openclipart-png", "openclipart-svg", "plasma-workspace-wallpapers")
        share = unpacked(Path(folder), *packages)
        titled = [(picture, title) for picture, title, _ in drawings(share / "openclipart") if title][::4]
        named = wallpapers(share / "wallpapers")
        return {
            f"auc_{key}": tell_apart(name, embed([picture for picture, _ in found]), [words for _, words in found])
            for key, name, found in (
                ("openclipart_fitted", "openclipart*", titled),
                ("wallpapers", "wallpapers", named),
            )
        }


def emoji_domain(picture: Path) -> str:
    """The group in which Unicode has an emoji."""
    return EMOJI_GROUPS[_groups()["-".join(point for point in picture.stem.lower().split("-") if point != "fe0f")]]


@lru_cache(maxsize=1)
def _groups() -> dict[str, int]:
    """The number of the group by code points."""
    words = material._npm_package(material.EMOJI_WORDS, print) / "zh/data.json"
    entries = json.loads(words.read_text(encoding="utf-8"))
    return {
        "-".join(point for point in entry["hexcode"].lower().split("-") if point != "fe0f"): entry.get("group", 2)
        for entry in entries
    }


def stamp(picture: Path) -> str:
    """Whether a stamp is a drawing: PLAIN of its opaque pixels and more have exactly their neighbour's colour."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGBA"))
    left, right = pixels[:, :-1], pixels[:, 1:]
    same = (left == right).all(axis=2)[(left[:, :, 3] > 200) & (right[:, :, 3] > 200)]
    return "photographs" if same.size and same.mean() < PLAIN else "drawings"


def wallpapers(folder: Path) -> list[tuple[Path, str]]:
    """Plasma's wallpapers, the largest picture of each, with the Chinese part of their names."""
    found = []
    for about in sorted(folder.glob("*/metadata.json")):
        name = json.loads(about.read_text(encoding="utf-8"))["KPlugin"].get("Name[zh_CN]", "")
        words = "".join(sign for sign in name if is_han(sign))
        pictures = sorted(about.parent.glob("contents/images/*.*"), key=lambda path: path.stat().st_size)
        if words and pictures:
            found.append((pictures[-1], words))
    return found


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
    print(f"{source:<16}{len(captions):>7}{matched.mean():>9.3f}{shuffled.mean():>10.3f}{area:>8.3f}")
    return area


def embed(paths: list[Path]) -> np.ndarray:
    """The embeddings of picture files: N × 1280, float32."""
    measure = LiteEmbedding()
    batches = (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))
    found: list[np.ndarray] = []
    for batch in batches:
        found += measure([decode(path.read_bytes()) for path in batch])["vector"]
    return np.asarray(found, dtype=np.float32)


def unpacked(folder: Path, *packages: str) -> Path:
    """Unpack Debian packages through apt into a folder; their /usr/share."""
    subprocess.run(["apt-get", "download", *packages], cwd=folder, check=True, capture_output=True)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        archive.unlink()
    return folder / "usr/share"


def clean(text: str) -> str:
    """Lower-case words: no digits, no punctuation, CamelCase split."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    return " ".join(re.sub(r"[\W\d_]+", " ", spaced).split()).lower()


def drawings(openclipart: Path) -> list[tuple[Path, str, str]]:
    """Pictures, titles and keywords; of the series that share all their words only the first SAME_TEXT are taken."""
    png, svg = openclipart / "png", openclipart / "svg"
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
        drawn = drawings(unpacked(Path(folder), "openclipart-png", "openclipart-svg") / "openclipart")
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
    print(f"{'source':<16}{'pairs':>7}{'matched':>9}{'shuffled':>10}{'AUC':>8}")
    print(json.dumps(evaluate_kept(arguments.corpus) if arguments.corpus else evaluate(arguments.quick)))


if __name__ == "__main__":
    main()
