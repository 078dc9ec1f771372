"""BERT-Mini (Turc et al. 2019, arXiv:1908.08962) of transformers: ids and mask of 64 tokens."""

import torch
from common import data
from hf import logits_of
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

VOCABULARY, LENGTH = 30_522, 64


def sentence(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    used = int(torch.randint(LENGTH // 2, LENGTH, (), generator=generator))
    ids = torch.randint(0, VOCABULARY, (1, LENGTH), generator=generator)
    return ids, (torch.arange(LENGTH)[None] < used).long()


example_inputs, calibration = data(sentence)


def model() -> nn.Module:
    config = BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
        num_labels=4,
    )  # fmt: skip
    make = lambda: BertForSequenceClassification(config)  # noqa: E731
    return logits_of(make, example_inputs, "input_ids", "attention_mask")
