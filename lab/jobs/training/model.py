"""The model, cut into pipeline stages and tensor-parallel halves, and the synthetic language it learns.

Tensor parallelism is Megatron's (Shoeybi et al., arXiv:1909.08053): each rank of a container holds its share
of the attention heads and of the feed-forward's hidden units, and two all-reduces per block and pass put
the shares together. They stay inside the container.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from lab.jobs.training.shape import Shape


class _Enter(torch.autograd.Function):  # type: ignore[misc]
    """Into a tensor-parallel region: the input as it is, its gradient summed over the ranks."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        context.group = group
        return values

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=context.group)
        return gradient, None


class _Leave(torch.autograd.Function):  # type: ignore[misc]
    """Out of a tensor-parallel region: the ranks' shares summed, the gradient as it is."""

    @staticmethod
    def forward(_context: torch.autograd.function.FunctionCtx, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        values = values.contiguous().clone()
        dist.all_reduce(values, group=group)
        return values

    @staticmethod
    def backward(_context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Block(nn.Module):  # type: ignore[misc]
    """One transformer block, this rank's share of it. Input and output: (sequences, positions, width)."""

    def __init__(self, shape: Shape, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.group, self.heads = group, shape.heads // shape.tensor_parallel
        share = shape.width // shape.tensor_parallel
        self.before_attention, self.before_feed_forward = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.attend = nn.Linear(shape.width, 3 * share, bias=False)
        self.attended = nn.Linear(share, shape.width, bias=False)
        self.widen = nn.Linear(shape.width, 4 * share, bias=False)
        self.narrow = nn.Linear(4 * share, shape.width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        sequences, positions, _ = states.shape
        inner = self.attend(_Enter.apply(self.before_attention(states), self.group))
        query, key, value = (
            part.view(sequences, positions, self.heads, -1).transpose(1, 2) for part in inner.chunk(3, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(sequences, positions, -1)
        states = states + _Leave.apply(self.attended(mixed), self.group)
        inner = functional.gelu(self.widen(_Enter.apply(self.before_feed_forward(states), self.group)))
        result: Tensor = states + _Leave.apply(self.narrow(inner), self.group)
        return result


class Stage(nn.Module):  # type: ignore[misc]
    """One pipeline stage: the first begins with the embeddings, the last ends with the logits."""

    def __init__(self, shape: Shape, stage: int, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.first, self.last = stage == 0, stage == shape.pipeline - 1
        if self.first:
            self.tokens = nn.Embedding(shape.vocabulary, shape.width)
            self.positions = nn.Parameter(0.02 * torch.randn(shape.positions, shape.width))
        self.blocks = nn.ModuleList(Block(shape, group) for _ in range(shape.blocks_per_stage))
        if self.last:
            self.norm = nn.LayerNorm(shape.width)
            self.logits = nn.Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """(sequences, positions) tokens or (…, width) states in; states, or (…, vocabulary) logits, out."""
        if self.first:
            values = self.tokens(values) + self.positions
        for block in self.blocks:
            values = block(values)
        if self.last:
            values = self.logits(self.norm(values))
        return values


def build_stage(shape: Shape, stage: int, tensor_rank: int, seed: int, group: dist.ProcessGroup) -> Stage:
    """One rank's share, drawn so that what tensor-parallel ranks share is alike and what is cut is not."""
    torch.manual_seed(seed * 1000 + stage)
    model = Stage(shape, stage, group)
    torch.manual_seed((seed * 1000 + stage) * 100 + tensor_rank)
    with torch.no_grad():
        for block in model.blocks:
            for cut in (block.attend, block.attended, block.widen, block.narrow):
                nn.init.normal_(cut.weight, std=0.02)
    return model


class Language:
    """A synthetic language to learn: each word has four possible successors, equally likely, drawn from the seed.

    An untrained model's loss is about ln(vocabulary), the best possible ln 4.
    """

    def __init__(self, shape: Shape, seed: int, replica: int) -> None:
        self._shape = shape
        grammar = torch.Generator().manual_seed(seed)
        self._successors = torch.randint(shape.vocabulary, (shape.vocabulary, 4), generator=grammar)
        self._generator = torch.Generator().manual_seed(seed * 1000 + replica + 1)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Words and the words that follow them, each (sequences of all micro-batches, positions)."""
        sequences = self._shape.micro_batches * self._shape.sequences
        words = torch.empty(sequences, self._shape.positions + 1, dtype=torch.long)
        words[:, 0] = torch.randint(self._shape.vocabulary, (sequences,), generator=self._generator)
        choices = torch.randint(4, (sequences, self._shape.positions), generator=self._generator)
        for place in range(self._shape.positions):
            words[:, place + 1] = self._successors[words[:, place], choices[:, place]]
        return words[:, :-1], words[:, 1:]


def loss_of(logits: Tensor, following: Tensor) -> Tensor:
    """Mean cross-entropy, nats per word."""
    return functional.cross_entropy(logits.flatten(0, 1), following.flatten())
