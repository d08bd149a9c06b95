"""Large models as they are published, of the same sizes, for plans: on the meta device they take no memory."""

from __future__ import annotations

import torch
from torch import nn


class Attention(nn.Module):
    """The matrices of grouped-query attention."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, shared * (width // heads), bias=False)
        self.v_proj = nn.Linear(width, shared * (width // heads), bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)


class Perceptron(nn.Module):
    """The matrices of a gated perceptron."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)


class Block(nn.Module):
    """One layer."""

    def __init__(self, width: int, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = nn.RMSNorm(width)
        self.post_attention_layernorm = nn.RMSNorm(width)


class Transformer(nn.Module):
    """The parameters of a model; it is never run."""

    def __init__(self, tokens: int, width: int, blocks: list[Block]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(tokens, width)
        self.layers = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(width)
        self.lm_head = nn.Linear(width, tokens, bias=False)


def llama(layers: int, width: int, heads: int, shared: int, inner: int, tokens: int = 32000) -> Transformer:
    """Llama 2 (Touvron et al. 2023, arXiv:2307.09288)."""
    blocks = [Block(width, Attention(width, heads, shared), Perceptron(width, inner)) for _ in range(layers)]
    return Transformer(tokens, width, blocks)


def llama_7b() -> Transformer:
    """Llama 2 7B: 32 layers of width 4096."""
    return llama(32, 4096, 32, 32, 11008)


def llama_70b() -> Transformer:
    """Llama 2 70B: 80 layers of width 8192 with 64 heads, 8 of them for keys and values."""
    return llama(80, 8192, 64, 8, 28672)


class LatentAttention(nn.Module):
    """The matrices of attention with low-rank queries, keys and values (DeepSeek-AI 2024, arXiv:2405.04434)."""

    def __init__(self, width: int, heads: int, queries: int, latent: int, plain: int, turned: int, values: int) -> None:
        super().__init__()
        self.q_a_proj = nn.Linear(width, queries, bias=False)
        self.q_a_layernorm = nn.RMSNorm(queries)
        self.q_b_proj = nn.Linear(queries, heads * (plain + turned), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(width, latent + turned, bias=False)
        self.kv_a_layernorm = nn.RMSNorm(latent)
        self.kv_b_proj = nn.Linear(latent, heads * (plain + values), bias=False)
        self.o_proj = nn.Linear(heads * values, width, bias=False)


class Experts(nn.Module):
    """Perceptrons of one shape, each kind of matrix as a stack (experts, out, in)."""

    def __init__(self, experts: int, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(experts, inner, width))
        self.up_proj = nn.Parameter(torch.empty(experts, inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))


class Mixture(nn.Module):
    """Experts, the one that all tokens take, and the router."""

    def __init__(self, experts: int, width: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = Experts(experts, width, inner)
        self.shared_experts = Perceptron(width, inner)


def kimi_k2() -> Transformer:
    """Kimi K2 (Kimi Team 2025, arXiv:2507.20534, table 2): 61 layers of width 7168, the first of them dense, the others
    with 384 experts of width 2048; 1.03 trillion parameters."""
    width = 7168

    def attention() -> LatentAttention:
        return LatentAttention(width, 64, 1536, 512, 128, 64, 128)

    first = Block(width, attention(), Perceptron(width, 18432))
    rest = [Block(width, attention(), Mixture(384, width, 2048)) for _ in range(60)]
    return Transformer(163_840, width, [first, *rest])
