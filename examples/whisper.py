"""Whisper tiny.en as an encoder and a decoder with caches: sounds in, what is said in them out, in words without case and punctuation.

Greedy, thirty seconds at once. pip install 'compressctl[transformers]'; benchmarks/export_whisper.py writes the files and the tokenizer.
"""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np

START, NO_TIMES, END = 50257, 50362, 50256
RATE, MOST_TOKENS = 16000, 224


def transcribe(models, inputs):
    """models: by name, functions of arrays by input. inputs: sounds, (n, samples) at 16 kHz. Returns a text for each."""
    return [spoken(models, sound) for sound in next(iter(inputs.values()))]


def spoken(models, sound):
    """The words of one sound, by the likeliest token again and again."""
    crossed = models["encoder"]({"spectrogram": spectrogram(sound)})
    shape = next(iter(crossed.values())).shape
    past = {name.replace("cross_", "past_"): np.zeros((1, shape[1], 0, shape[3]), np.float32) for name in crossed}
    forbidden, forbidden_first = suppressed()
    tokens, found = [START, NO_TIMES], []
    while len(found) < MOST_TOKENS:
        outputs = models["decoder"]({"tokens": np.array([tokens]), **past, **crossed})
        scores = outputs.pop("logits")[0, -1].copy()
        scores[forbidden if found else forbidden_first] = -np.inf
        token = int(scores.argmax())
        if token == END:
            break
        found.append(token)
        tokens, past = [token], {name.replace("present_", "past_"): held for name, held in outputs.items()}
    tokenizer, plain = readers()
    return plain(tokenizer.decode(found))


def spectrogram(sound):
    """(1, 80, 3000), float32."""
    return extractor()(sound, sampling_rate=RATE, return_tensors="np").input_features


@cache
def extractor():
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=80)


def folder():
    return Path(os.environ["COMPRESSCTL_WHISPER"])


@cache
def suppressed():
    """Tokens that are no words, and at the begin of a text those and its end, as the model's own configuration has them."""
    config = json.loads((folder() / "config.json").read_text())
    return config["suppress_ids"], [*config["suppress_ids"], *config["suppress_ids_begin"]]


@cache
def readers():
    from tokenizers import Tokenizer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return Tokenizer.from_file(str(folder() / "tokenizer.json")), EnglishTextNormalizer({})
