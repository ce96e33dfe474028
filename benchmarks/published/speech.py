"""What the audio models are fed: sentences spoken by eSpeak NG (its library comes in a wheel), and plucked chords."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache

import numpy as np
import onnxruntime

from published.packages import folder

Sample = dict[str, np.ndarray]

SENTENCES = (
    ("en", "Good morning. The train to the coast leaves at a quarter past nine from platform four."),
    ("en-us", "Please leave your name, your number, and a short message after the tone."),
    ("de", "Guten Tag, ich möchte gerne einen Tisch für vier Personen bestellen."),
    ("fr", "Bonjour, pouvez-vous me dire où se trouve la gare, s'il vous plaît?"),
    ("es", "La reunión empieza a las diez y media, no llegues tarde."),
    ("ru", "Добрый день, сегодня хорошая погода и мы идём гулять."),
)
RATE = 16000
CHUNK, CONTEXT = 512, 64


@cache
def spoken() -> np.ndarray:
    """Every sentence by a high and a low voice, with pauses and a noisy room between and under them. 16 kHz, -1 to 1."""
    random = np.random.default_rng(7)
    parts = []
    for index, (voice, text) in enumerate(SENTENCES):
        for pitch in (35, 70):
            parts.append(_speak(voice, text, pitch, speed=150 + 12 * index))
            parts.append(np.zeros(int(random.uniform(0.4, 1.2) * RATE), np.float32))
    waveform = np.concatenate(parts)
    return (waveform + random.normal(0, 0.004, waveform.size)).astype(np.float32)


def _speak(voice: str, text: str, pitch: int, speed: int) -> np.ndarray:
    """One sentence at 16 kHz. Calls of eSpeak NG's C interface (speak_lib.h)."""
    library, source_rate = _espeak()
    said: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(samples, count, _events):
        if samples and count > 0:
            said.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(take)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise RuntimeError(f"eSpeak NG has no voice {voice}")
    library.espeak_SetParameter(1, speed, 0)
    library.espeak_SetParameter(3, pitch, 0)
    spelled = text.encode()
    library.espeak_Synth(spelled, len(spelled) + 1, 0, 1, 0, 1, None, None)
    library.espeak_Synchronize()
    values = np.concatenate(said).astype(np.float32) / 32768
    places = np.arange(0, values.size - 1, source_rate / RATE)
    return np.interp(places, np.arange(values.size), values).astype(np.float32)


@cache
def _espeak() -> tuple[ctypes.CDLL, int]:
    home = folder("espeakng-loader") / "espeakng_loader"
    library = ctypes.CDLL(str(home / "libespeak-ng.so"))
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p,
        ctypes.c_void_p,
    ]  # fmt: skip
    rate = library.espeak_Initialize(2, 0, str(home / "espeak-ng-data").encode(), 0)
    if rate <= 0:
        raise RuntimeError("eSpeak NG did not start")
    return library, rate


def streamed(path: str, scalar_rate: bool, count: int, random: np.random.Generator) -> Iterator[Sample]:
    """Silero's chunks of 32 ms with 64 samples of context, and the state that the float model had reached by then.

    path: the model that is asked. Chunks are drawn from all over the recording, each with the state before it.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    waveform = spoken()
    state = np.zeros((2, 1, 128), np.float32)
    recorded = []
    for start in range(CONTEXT, waveform.size - CHUNK, CHUNK):
        sample = {"input": waveform[None, start - CONTEXT : start + CHUNK], "state": state}
        if scalar_rate:
            sample["sr"] = np.array(RATE, np.int64)
        recorded.append(sample)
        _, state = session.run(["output", "stateN"], sample)
    order = random.permutation(len(recorded))[:count]
    return iter([recorded[index] for index in order])


def sequences(random: np.random.Generator) -> Iterator[Sample]:
    """Silero for a whole recording: 16 to 48 chunks in a row, states at their start."""
    waveform = spoken()
    while True:
        chunks = int(random.integers(16, 49))
        start = int(random.integers(CONTEXT, waveform.size - (chunks + 1) * CHUNK))
        rows = [waveform[start + CHUNK * i - CONTEXT : start + CHUNK * (i + 1)] for i in range(chunks)]
        zeros = np.zeros((1, 1, 128), np.float32)
        yield {"input": np.stack(rows), "h": zeros, "c": zeros.copy()}


def music(random: np.random.Generator) -> Iterator[Sample]:
    """Basic Pitch: two seconds at 22,050 Hz of plucked notes, alone and in chords, over a little noise."""
    rate, length = 22050, 43844
    times = np.arange(length) / rate
    while True:
        heard = random.normal(0, 0.002, length)
        for _ in range(random.integers(3, 12)):
            onset, pitch = random.uniform(0, 1.8), 440 * 2 ** (int(random.integers(-24, 25)) / 12)
            after = np.clip(times - onset, 0, None)
            note = sum(
                np.sin(2 * np.pi * pitch * harmonic * after) / harmonic**1.3 * np.exp(-after * (2 + harmonic))
                for harmonic in range(1, 8)
                if pitch * harmonic < rate / 2
            )
            heard += random.uniform(0.05, 0.25) * note * (times >= onset)
        yield {"serving_default_input_2:0": np.clip(heard, -1, 1).astype(np.float32)[None, :, None]}
