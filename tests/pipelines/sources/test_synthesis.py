"""Prompts → pictures: each prompt once, the same seed the same bytes, and a row for what cannot be drawn."""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from PIL import Image

from filters.weights import model_digest
from pipelines.corpus import Corpus
from pipelines.sources.synthesis import Teacher, add_candidates, add_fetches, prompts, synthesis_stage
from pipelines.stage import pending, run
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.recipe import Recipe, Synthesis
from schemas.tables import pairs_table

BEYOND = "@"
"""A character that the tokenizer knows and the text encoder does not."""


def silent(name: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parts of a Stable Diffusion with random weights: characters for tokens, 32 px pictures."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    signs = [chr(sign) for sign in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *signs, *(f"{sign}</w>" for sign in signs), BEYOND, f"{BEYOND}</w>"]
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "pad_token": "<|endoftext|>"})
    )
    text = CLIPTextConfig(
        vocab_size=len(words) - 2,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        time_cond_proj_dim=None,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=32,
    )
    return {
        "tokenizer": CLIPTokenizer.from_pretrained(folder),
        "text_encoder": CLIPTextModel(text).eval(),
        "unet": unet.eval(),
        "vae": vae.eval(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


@pytest.fixture(scope="module")
def teacher(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    folder = tmp_path_factory.mktemp("teacher")
    StableDiffusionPipeline(scheduler=DDIMScheduler(), **parts).save_pretrained(folder)
    return str(folder)


def listed(path: Path, rows: dict[str, list[Any]]) -> str:
    """A file of prompts in the format that its ending names."""
    table = pa.table(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return str(path)
    sink = io.BytesIO()
    if ".jsonl" in path.suffixes:
        sink.write("".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode())
    else:
        pacsv.write_csv(table, sink)
    path.write_bytes(gzip.compress(sink.getvalue()) if path.suffix == ".gz" else sink.getvalue())
    return str(path)


def source(path: str, teacher: str = "none", **more: Any) -> Synthesis:
    return Synthesis(kind="synthesis", path=path, teacher=teacher, **{"steps": 2, "size": 32, "guidance": 3.0} | more)


ROWS = {
    "text": ["a cat", "a cat", 'a "dog",\nrunning', "a cat", " ", None, "1984"],
    "without": ["fog", "fog", "", "", "", "", None],
    "number": ["7", "7", "-1", "no", "1", "1", None],
}


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.csv", "A.CSV.gz"])
def test_each_prompt_once(tmp_path: Path, name: str) -> None:
    path = listed(tmp_path / name, ROWS)
    wanted = source(path, prompt="text", negative_prompt="without", seed="number")
    found = sorted(prompts("mine", wanted).to_pylist(), key=lambda row: str(row.values()))
    assert found == [
        {"prompt": "1984", "negative_prompt": None, "seed": int.from_bytes(digest(b"1984")[:4])},
        {"prompt": 'a "dog",\nrunning', "negative_prompt": None, "seed": -1},
        {"prompt": "a cat", "negative_prompt": "fog", "seed": 7},
        {"prompt": "a cat", "negative_prompt": None, "seed": int.from_bytes(digest(b"a cat")[:4])},
    ]


def test_the_columns_of_diffusiondb(tmp_path: Path) -> None:
    path = listed(tmp_path / "metadata.parquet", {"image_name": ["x.png"], "prompt": ["a cat"], "seed": [4294967295]})
    rows = prompts("mine", source(path, preset="diffusiondb")).to_pylist()
    assert rows == [{"prompt": "a cat", "negative_prompt": None, "seed": 4294967295}]


def test_prompts_that_cannot_be_used(tmp_path: Path) -> None:
    listed(tmp_path / "a.csv", {"words": ["a cat"], "n": ["1"]})
    with pytest.raises(JuZhouError, match=r"no column 'prompt'; it has words, n$"):
        prompts("mine", source(str(tmp_path)))
    with pytest.raises(JuZhouError, match=r"no column 'seed'; it has words, n$"):
        prompts("mine", source(str(tmp_path), prompt="words", seed="seed"))
    with pytest.raises(JuZhouError, match="is there; it is the source 'mine'"):
        prompts("mine", source(str(tmp_path / "none.csv")))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(JuZhouError, match=r"\.csv and \.parquet files; say by a glob"):
        prompts("mine", source(str(tmp_path)))
    with pytest.raises(JuZhouError, match="mend the file") as caught:
        prompts("mine", source(str(tmp_path / "*.parquet")))
    assert "\n" not in str(caught.value)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an object store on this machine, as a URI's beginning and end."""
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"s3://prompts/{{}}?endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    server.stop()


def test_prompts_of_an_object_store(tmp_path: Path, bucket: str) -> None:
    store, root = pafs.FileSystem.from_uri(bucket.format("deep/er"))
    store.create_dir("prompts")
    for name, prompt in (("a", "a cat"), ("b", "a dog")):
        local = listed(tmp_path / f"{name}.jsonl", {"prompt": [prompt]})
        with store.open_output_stream(f"{root}/{name}.jsonl") as remote:
            remote.write(Path(local).read_bytes())
    found = prompts("mine", source(bucket.format("deep")))
    assert sorted(found.column("prompt").to_pylist()) == ["a cat", "a dog"]


def test_a_seed_is_a_picture_whatever_is_drawn_with_it(tmp_path: Path, teacher: str) -> None:
    draws = Teacher(source("none", teacher, negative_prompt="n"))
    rows = [
        {"prompt": prompt, "negative_prompt": without, "seed": seed}
        for prompt, without, seed in [("a cat", None, 1), ("a cat", None, 2), ("a dog", "fog", 1), ("ox", "fog", -5)]
    ]
    together = draws(rows)
    alone = [draws([row])[0] for row in rows]
    again = Teacher(source("none", teacher, negative_prompt="n"))(rows[:1])
    assert together == alone
    assert again == alone[:1]
    assert len(set(alone)) == len(alone)
    image = Image.open(io.BytesIO(alone[0]))
    assert (image.format, image.size, image.mode, image.info) == ("PNG", (32, 32), "RGB", {})


def test_it_is_the_librarys_own_picture(teacher: str) -> None:
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    pipeline: Any = DiffusionPipeline.from_pretrained(teacher, local_files_only=True)
    expected = pipeline(
        "a cat",
        negative_prompt="fog",
        num_inference_steps=2,
        guidance_scale=3.0,
        height=32,
        width=32,
        generator=torch.Generator("cpu").manual_seed(5),
    ).images[0]
    wanted = source("none", teacher, negative_prompt="n")
    [drawn] = Teacher(wanted)([{"prompt": "a cat", "negative_prompt": "fog", "seed": 5}])
    assert isinstance(drawn, bytes)
    assert Image.open(io.BytesIO(drawn)).tobytes() == expected.tobytes()
    [without] = Teacher(wanted)([{"prompt": "a cat", "negative_prompt": None, "seed": 5}])
    assert without != drawn


def test_a_pipeline_is_told_what_it_takes(parts: dict[str, Any], tmp_path: Path) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
        LatentConsistencyModelPipeline,
    )
    from diffusers.schedulers.scheduling_lcm import LCMScheduler

    unet = UNet2DConditionModel.from_config({**parts["unet"].config, "time_cond_proj_dim": 32})
    LatentConsistencyModelPipeline(scheduler=LCMScheduler(), **{**parts, "unet": unet}).save_pretrained(tmp_path)
    draws = Teacher(source("none", str(tmp_path), negative_prompt="n"))
    rows = [{"prompt": "a cat", "negative_prompt": "fog", "seed": seed} for seed in (1, 2)]
    assert draws(rows) == [draws([row])[0] for row in rows], "noise that a scheduler adds follows from the seed too"


def test_what_a_safety_checker_blanks_is_no_picture(parts: dict[str, Any], tmp_path: Path) -> None:
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPConfig, CLIPImageProcessor

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = sizes | {"image_size": 8, "patch_size": 4}
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=8))
    torch.nn.init.constant_(checker.concept_embeds_weights, -2.0)
    guarded = parts | {"safety_checker": checker, "requires_safety_checker": True}
    guarded["feature_extractor"] = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8)
    StableDiffusionPipeline(scheduler=DDIMScheduler(), **guarded).save_pretrained(tmp_path)
    draws = Teacher(source("none", str(tmp_path)))
    [blanked] = draws([{"prompt": "a cat", "negative_prompt": None, "seed": 1}])
    assert isinstance(blanked, ValueError) and "safety checker" in str(blanked)


def test_a_teacher_that_cannot_draw(parts: dict[str, Any], teacher: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(JuZhouError, match="no pipeline that diffusers can load"):
        Teacher(source("none", str(tmp_path)))
    with pytest.raises(JuZhouError, match="cannot draw at 12²") as caught:
        Teacher(source("none", teacher).model_copy(update={"size": 12}))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("ray_cluster")
def test_a_row_a_prompt(corpus: Corpus, tmp_path: Path, teacher: str) -> None:
    words = ["a cat", "a dog", "an ox", f"odd {BEYOND}", "a hen"]
    path = listed(tmp_path / "a.jsonl", {"prompt": words, "negative": ["fog", None, "fog", None, None]})
    wanted = source(path, teacher, negative_prompt="negative", batch=2)
    assert run(corpus, synthesis_stage(corpus, "drawn", wanted), silent) == len(words)
    assert run(corpus, synthesis_stage(corpus, "drawn", wanted), silent) == 0
    rows = {row["prompt"]: row for row in corpus.sql("SELECT * FROM syntheses").to_pylist()}
    assert set(rows) == set(words)
    draws = Teacher(wanted)
    for prompt, row in rows.items():
        assert row["source"] == "drawn"
        assert row["negative_prompt"] == ("fog" if prompt in ("a cat", "an ox") else None)
        assert row["seed"] == int.from_bytes(digest(prompt.encode())[:4])
        assert (row["model"], row["steps"], row["guidance"]) == (model_digest(teacher), 2, 3.0)
        if BEYOND in prompt:
            assert (row["status"], row["image_id"], row["tar"]) == ("permanent", None, None)
            assert row["error"].startswith("IndexError: ")
        else:
            content = corpus.read(row["tar"], row["offset"], row["length"])
            assert (row["status"], row["error"], row["image_id"]) == ("ok", None, digest(content))
            assert (row["format"], row["width"], row["height"], row["orientation"]) == ("png", 32, 32, 1)
            assert draws([row]) == [content], "one worker's bytes are another's"

    other = wanted.model_copy(update={"guidance": 5.0})
    assert pending(corpus, synthesis_stage(corpus, "drawn", other)).num_rows == len(words)

    assert add_fetches(corpus, "drawn") == len(words)
    assert add_candidates(corpus, "drawn", None, "recipe") == len(words) - 1
    assert add_fetches(corpus, "drawn") == add_candidates(corpus, "drawn", None, "recipe") == 0
    joined = corpus.sql("""
        SELECT caption, caption_from, recipe, candidates.url, synthesis_id, fetches.status, fetches.image_id, found_at,
            fetched_at, drawn_at, attempt
        FROM candidates JOIN fetches USING (url_id) JOIN syntheses ON prompt = caption
    """).to_pylist()
    assert len(joined) == len(words) - 1
    for row in joined:
        assert row["url"] == f"synthesis:drawn/{row['synthesis_id'].hex()}"
        assert (row["status"], row["caption_from"], row["recipe"], row["attempt"]) == ("ok", "prompt", "recipe", 1)
        assert row["image_id"] == rows[row["caption"]]["image_id"]
        assert row["found_at"] == row["fetched_at"] == row["drawn_at"]
    [failed] = corpus.sql("SELECT * FROM fetches WHERE status = 'permanent'").to_pylist()
    assert failed["error"].startswith("IndexError") and failed["image_id"] is None


@pytest.mark.usefixtures("ray_cluster")
def test_without_a_path_the_poems_are_drawn_each_prompt_once(corpus: Corpus, teacher: str) -> None:
    paired = pairs_table("0")
    corpus.adopt("{}", [paired])
    mine = Synthesis(kind="synthesis", teacher=teacher, steps=1, size=32)
    assert run(corpus, synthesis_stage(corpus, "mine", mine), silent) == 0
    shown = [("a", "moon, ink"), ("a", "moon, oil"), ("b", "moon, ink"), ("c", None)]
    rows = [
        {"poem_id": digest(poem.encode()), "rank": rank, "prompt": prompt, "negative_prompt": prompt and "blur"}
        for rank, (poem, prompt) in enumerate(shown, start=1)
    ]
    corpus.append(paired, pa.Table.from_pylist(rows, paired.schema))
    assert run(corpus, synthesis_stage(corpus, "mine", mine), silent) == 2
    drawn = corpus.sql("SELECT prompt, negative_prompt, status FROM syntheses ORDER BY prompt").to_pylist()
    assert [tuple(row.values()) for row in drawn] == [("moon, ink", "blur", "ok"), ("moon, oil", "blur", "ok")]
    add_candidates(corpus, "mine", None, "0")
    poems = corpus.sql("SELECT DISTINCT poem_id FROM candidates JOIN pairs ON caption = prompt").num_rows
    assert poems == 2


def test_a_source_without_a_path_wants_poems_and_names_no_columns() -> None:
    with pytest.raises(ValueError, match="have no columns to name"):
        Synthesis(kind="synthesis", teacher="none", seed="seed")
    recipe = {"corpus": "c", "measures": ["size"], "policy": "p.yaml", "release": "r"}
    drawn = {"sources": {"mine": {"kind": "synthesis", "teacher": "none"}}}
    with pytest.raises(ValueError, match="asks for none"):
        Recipe.model_validate(recipe | drawn)
    assert Recipe.model_validate(recipe | drawn | {"poetry": {"collection": "whole"}}).poetry
