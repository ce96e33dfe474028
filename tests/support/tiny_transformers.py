"""Networks of transformers so small that every test may have one: random weights, real code."""

import json
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 60,
    "max_position_embeddings": 64,
}  # fmt: skip
PIXELS = {**{name: SIZES[name] for name in list(SIZES)[:4]}, "image_size": 16, "patch_size": 4}
WORDS = ("the", "cat", "dog", "sat", "ran", "on", "a", "mat", "good", "bad", "film", "was", "it", "very", "not", "and")


def network(name: str) -> Any:
    """One of transformers' networks by a short name."""
    import torch
    import transformers as t

    grouped = {**SIZES, "num_key_value_heads": 2}
    makers: dict[str, Any] = {
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**SIZES, num_labels=3)),
        "bert-tokens": lambda: t.BertForTokenClassification(t.BertConfig(**SIZES, num_labels=3)),
        "bert-qa": lambda: t.BertForQuestionAnswering(t.BertConfig(**SIZES)),
        "bert-masked": lambda: t.BertForMaskedLM(t.BertConfig(**SIZES)),
        "bert-base": lambda: t.BertModel(t.BertConfig(**SIZES)),
        "roberta": lambda: t.RobertaForSequenceClassification(
            t.RobertaConfig(**SIZES, pad_token_id=1, type_vocab_size=1)
        ),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=64, bos_token_id=0, eos_token_id=0)
        ),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**grouped)),
        "llama-tied": lambda: t.LlamaForCausalLM(t.LlamaConfig(**grouped, tie_word_embeddings=True)),
        "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**SIZES)),
        "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**grouped, pad_token_id=0)),
        "falcon": lambda: t.FalconForCausalLM(
            t.FalconConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                vocab_size=60,
                alibi=False,
                bos_token_id=0,
                eos_token_id=1,
            )
        ),
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**PIXELS, num_labels=3)),
        "deit": lambda: t.DeiTForImageClassification(t.DeiTConfig(**PIXELS, num_labels=3)),
        "resnet": lambda: t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
        ),
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                ffn_dim=64,
                vocab_size=60,
                word_embed_proj_dim=32,
                max_position_embeddings=64,
                pad_token_id=1,
                bos_token_id=2,
                eos_token_id=2,
            )
        ),
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**grouped, head_dim=8, sliding_window=16)),
        "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**grouped, num_local_experts=4)),
        "gpt-oss": lambda: t.GptOssForCausalLM(
            t.GptOssConfig(**grouped, head_dim=8, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0)
        ),
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4, vocab_size=60)
        ),
    }
    torch.manual_seed(0)
    return makers[name]().eval()


def saved(name: str, folder: Path) -> Path:
    """The network's folder, with a tokenizer of its words."""
    network(name).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    words = special | {word: number for number, word in enumerate(WORDS, len(special))}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))


def as_sentence_encoder(folder: Path, pooling: dict[str, Any], dense: bool = False, normalize: bool = True) -> Path:
    """The files that sentence-transformers puts beside a network."""
    import torch
    from safetensors.torch import save_file

    kinds = ["Transformer", "Pooling", *["Dense"] * dense, *["Normalize"] * normalize]
    modules = [
        {
            "idx": n,
            "name": str(n),
            "path": "" if n == 0 else f"{n}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for module in modules[1:]:
        (folder / str(module["path"])).mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    if dense:
        place = folder / "2_Dense"
        config = {
            "in_features": 32,
            "out_features": 8,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        }
        (place / "config.json").write_text(json.dumps(config))
        torch.manual_seed(1)
        save_file({"linear.weight": torch.randn(8, 32), "linear.bias": torch.randn(8)}, place / "model.safetensors")
    return folder


def write_byte_pairs(folder: Path) -> None:
    """A byte-level tokenizer of 300 tokens, as language models have them: <s>, </s> and <pad> come first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)


def language_model(folder: Path, **sizes: Any) -> Path:
    """A Llama with grouped queries and its tokenizer."""
    import torch
    import transformers as t

    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    grouped = {**SIZES, "vocab_size": 300, "num_key_value_heads": 2, "head_dim": 16, **special, **sizes}
    torch.manual_seed(0)
    t.LlamaForCausalLM(t.LlamaConfig(**grouped)).save_pretrained(folder)
    write_byte_pairs(folder)
    return folder
