"""JuZhou: build a Chinese image-text corpus, and train a four-step text-to-image model on it.

In a notebook: `Corpus("demo/corpus").sql("SELECT caption, blur.sharpness FROM corpus").to_pandas()`.
"""

from pipelines.corpus import Corpus

__all__ = ["Corpus"]
