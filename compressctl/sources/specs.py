"""The model sources and datasets that come with the package, as the registries list them. Imports nothing heavy."""

from __future__ import annotations

from compressctl.core.model import Form
from compressctl.core.source import DatasetSpec, ModelSourceSpec
from compressctl.sources.params import (
    BuiltinParams,
    CocoDataParams,
    CsvParams,
    DigitsParams,
    HfDatasetParams,
    HuggingFaceParams,
    ImageFolderParams,
    JsonlParams,
    MaskFolderParams,
    NpzParams,
    OnnxParams,
    OnnxTestDataParams,
    PythonDatasetParams,
    PythonModelParams,
    RandomParams,
    RequestsParams,
    SentencePairsParams,
    TextImagesParams,
    TextParams,
    TimmParams,
    WavFolderParams,
    YoloDataParams,
)

BUILTIN = ModelSourceSpec(
    name="builtin",
    summary="small real networks that come with trained weights",
    params=BuiltinParams,
    form=Form.TORCH,
    implementation="compressctl.sources.builtin:load",
    fingerprint="compressctl.sources.builtin:fingerprint",
)

PYTHON_MODEL = ModelSourceSpec(
    name="python",
    summary="a PyTorch network made by your own function, with weights from a file",
    params=PythonModelParams,
    form=Form.TORCH,
    implementation="compressctl.sources.python_model:load",
    fingerprint="compressctl.sources.python_model:fingerprint",
)

HUGGING_FACE = ModelSourceSpec(
    name="huggingface",
    summary="a network of the library transformers, from a folder or the Hub: encoders of text, sentence encoders, vision and language models",
    params=HuggingFaceParams,
    form=Form.TORCH,
    implementation="compressctl.sources.huggingface.network:load",
    fingerprint="compressctl.sources.huggingface.folder:fingerprint",
    write="compressctl.sources.huggingface.write:write",
    text="compressctl.sources.huggingface.text:served_text",
    folder="transformers",
    images="compressctl.sources.huggingface.images:image_steps",
)

TIMM = ModelSourceSpec(
    name="timm",
    summary="a network of the library timm by its name, with weights from a file",
    params=TimmParams,
    form=Form.TORCH,
    implementation="compressctl.sources.timm_network.network:load",
    fingerprint="compressctl.sources.timm_network.config:fingerprint",
    images="compressctl.sources.timm_network.images:image_steps",
)

ONNX = ModelSourceSpec(
    name="onnx",
    summary="an ONNX file",
    params=OnnxParams,
    form=Form.ONNX,
    implementation="compressctl.sources.onnx_file:load",
    fingerprint="compressctl.sources.onnx_file:fingerprint",
)

DIGITS = DatasetSpec(
    name="digits",
    summary="scikit-learn's 1,797 handwritten digits, 8x8; splits are fixed so that the built-in networks never saw the test",
    params=DigitsParams,
    implementation="compressctl.sources.digits:load",
    fingerprint="compressctl.sources.digits:fingerprint",
)

NPZ = DatasetSpec(
    name="npz",
    summary="arrays, or encoded images, in a NumPy .npz file",
    params=NpzParams,
    implementation="compressctl.sources.npz:load",
    fingerprint="compressctl.sources.npz:fingerprint",
)

REQUESTS = DatasetSpec(
    name="requests",
    summary="recorded calls of a model: a folder with one .npz each, any inputs, any shapes",
    params=RequestsParams,
    implementation="compressctl.sources.requests:load",
    fingerprint="compressctl.sources.requests:fingerprint",
)

ONNX_TEST_DATA = DatasetSpec(
    name="onnx_test_data",
    summary="the ONNX model zoo's test_data_set_* folders; what the files expect is held against the original",
    params=OnnxTestDataParams,
    implementation="compressctl.sources.onnx_test_data:load",
    fingerprint="compressctl.sources.onnx_test_data:fingerprint",
)

RANDOM = DatasetSpec(
    name="random",
    summary="random values in declared shapes and ranges, for sizes and speed only",
    params=RandomParams,
    implementation="compressctl.sources.random_inputs:load",
    fingerprint="compressctl.sources.random_inputs:fingerprint",
)

IMAGE_FOLDER = DatasetSpec(
    name="image_folder",
    summary="image files, one folder per class, or labelled by file name or a CSV file",
    params=ImageFolderParams,
    implementation="compressctl.sources.image_folder:load",
    fingerprint="compressctl.sources.image_folder:fingerprint",
)

MASK_FOLDER = DatasetSpec(
    name="mask_folder",
    summary="image files with a mask each, a class for every pixel",
    params=MaskFolderParams,
    implementation="compressctl.sources.mask_folder:load",
    fingerprint="compressctl.sources.mask_folder:fingerprint",
)

COCO = DatasetSpec(
    name="coco",
    summary="images and the JSON file of their boxes, as COCO has them, for detection",
    params=CocoDataParams,
    implementation="compressctl.sources.coco:load",
    fingerprint="compressctl.sources.coco:fingerprint",
)

YOLO = DatasetSpec(
    name="yolo",
    summary="images with a text file of boxes each, as YOLO's trainers have them, for detection",
    params=YoloDataParams,
    implementation="compressctl.sources.yolo:load",
    fingerprint="compressctl.sources.yolo:fingerprint",
)

CSV = DatasetSpec(
    name="csv",
    summary="a table of numbers with a column to predict",
    params=CsvParams,
    implementation="compressctl.sources.csv_table:load",
    fingerprint="compressctl.sources.csv_table:fingerprint",
)

SENTENCE_PAIRS = DatasetSpec(
    name="sentence_pairs",
    summary="pairs of texts with a similarity, for models that embed one text; sizes of splits count pairs",
    params=SentencePairsParams,
    implementation="compressctl.sources.sentence_pairs:load",
    fingerprint="compressctl.sources.sentence_pairs:fingerprint",
    tuple_size=2,
)

PYTHON_DATASET = DatasetSpec(
    name="python",
    summary="arrays or a Dataset made by your own function",
    params=PythonDatasetParams,
    implementation="compressctl.sources.python_dataset:load",
    fingerprint="compressctl.sources.python_dataset:fingerprint",
)

TEXT_IMAGES = DatasetSpec(
    name="text_images",
    summary="pictures of text and what stands on them, named by a list",
    params=TextImagesParams,
    implementation="compressctl.sources.text_images:load",
    fingerprint="compressctl.sources.text_images:fingerprint",
)

WAV_FOLDER = DatasetSpec(
    name="wav_folder",
    summary="sound files with transcripts, or one folder per class",
    params=WavFolderParams,
    implementation="compressctl.sources.wav_folder:load",
    fingerprint="compressctl.sources.wav_folder:fingerprint",
)

JSONL = DatasetSpec(
    name="jsonl",
    summary="a JSON object for each sample, whose fields are numbers or lists of them",
    params=JsonlParams,
    implementation="compressctl.sources.jsonl:load",
    fingerprint="compressctl.sources.jsonl:fingerprint",
)

HF_DATASET = DatasetSpec(
    name="hf_dataset",
    summary="a dataset of the library datasets, from a folder or the Hub: columns of numbers, texts or images",
    params=HfDatasetParams,
    implementation="compressctl.sources.hf_dataset.samples:load",
    fingerprint="compressctl.sources.hf_dataset.place:fingerprint",
)

TEXT = DatasetSpec(
    name="text",
    summary="running text in windows of tokens, for language models; sizes of splits count windows",
    params=TextParams,
    implementation="compressctl.sources.text_windows:load",
    fingerprint="compressctl.sources.text_windows:fingerprint",
)
