"""JuZhou: build a Chinese image-text corpus, and train a four-step text-to-image model on it."""
