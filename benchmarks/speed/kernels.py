"""The Triton kernels beside what torch runs for the same weight: ``python -m benchmarks.speed.kernels``.

Each is timed in interleaved rounds against the library's own weight gradient, which sums over examples before
anybody could square; the ratio is device time. Without a device, ``--dry-run`` lists the cases and compiles every
kernel they would launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import Tensor

from benchmarks.speed.clock import interleave, ratio
from benchmarks.speed.store import RESULTS, Store, environment
from forgetting.fisher.rules.conv import Geometry

MEMORY = 2**28
MUST = 1.8  # × the matching weight-gradient product, for the linear kernel at 128 positions or more
REPEATS = 20  # calls between two events, so that the launches run ahead of the device
TYPES = (torch.bfloat16, torch.float32)
LINEAR = {  # examples, positions, in, out
    "BERT-base, attention": (64, 128, 768, 768),
    "BERT-base, widening": (64, 128, 768, 3072),
    "ViT-B, widening": (64, 197, 768, 3072),
    "GPT-2, widening": (8, 1024, 768, 3072),
    "decoder, widening": (8, 512, 2048, 8192),
}
CONV = {  # examples, in, out, size, kernel, stride, padding, groups
    "ResNet, first": (64, 3, 64, 224, 7, 2, 3, 1),
    "ResNet, 64 at 56": (64, 64, 64, 56, 3, 1, 1, 1),
    "ResNet, 256 at 14": (64, 256, 256, 14, 3, 1, 1, 1),
    "ResNet, 512 at 7": (64, 512, 512, 7, 3, 1, 1, 1),
    "ResNet-50, one tap": (64, 256, 64, 56, 1, 1, 0, 1),
    "EfficientNet, depthwise": (64, 96, 96, 56, 3, 1, 1, 96),
}
EMBEDDING = {  # examples, positions, rows, width
    "GPT-2, tokens": (8, 1024, 50257, 768),
    "BERT, types": (64, 128, 2, 768),
}
PENALTY = {"11 M in 62": (11_000_000, 62), "91 M in 100": (91_000_000, 100)}  # numbers, tensors


class Case(NamedTuple):
    """A kernel's call and the library's."""

    name: str
    kernel: Callable[[], object]
    reference: Callable[[], object]
    tiles: dict[str, Callable[[], object]]
    must: float | None = None


def cases(device: str, tiles: bool = False) -> Iterator[Case]:
    """Every case with its tensors on a device, made when it is reached; with the candidates for its tile if asked."""
    for dtype in TYPES:
        for name, shape in LINEAR.items():
            yield linear_case(f"linear: {name}, {dtype}", *shape, dtype, device, tiles)
        for name, shape in CONV.items():
            yield conv_case(f"conv: {name}, {dtype}", *shape, dtype, device, tiles)
        for name, shape in EMBEDDING.items():
            yield embedding_case(f"embedding: {name}, {dtype}", *shape, dtype, device)
        for name, shape in PENALTY.items():
            yield penalty_case(f"penalty: {name}, {dtype}", *shape, dtype, device)


def linear_case(name: str, n: int, t: int, i: int, o: int, dtype: torch.dtype, device: str, tiles: bool) -> Case:
    """Against the product gᵀx of all examples at once."""
    from forgetting.fisher.kernels import linear
    from forgetting.fisher.kernels.launch import Tile

    x, g = torch.randn(n, t, i, dtype=dtype, device=device), torch.randn(n, t, o, dtype=dtype, device=device)
    total = torch.zeros(o, i, device=device)
    candidates = [Tile(*sides, depth, warps, stages) for *sides, warps in ((128, 128, 8), (128, 64, 8), (64, 64, 4))
                  for depth, stages in ((64, 3), (32, 3), (32, 4))] if tiles else []
    return Case(name, lambda: linear.products(x, g, total, 2, MEMORY),
                lambda: torch.mm(g.flatten(0, 1).T, x.flatten(0, 1)),
                {str(tuple(tile)): lambda tile=tile: linear.launch(x, g, total, 2, tile, 1) for tile in candidates},
                MUST if t >= 128 else None)


def conv_case(name: str, n: int, i: int, o: int, size: int, kernel: int, stride: int, padding: int, groups: int,
              dtype: torch.dtype, device: str, tiles: bool) -> Case:
    """Against the library's weight gradient, both channels-last."""
    from forgetting.fisher.kernels import conv
    from forgetting.fisher.kernels.launch import Plane, Tile

    out = (size + 2 * padding - kernel) // stride + 1
    x, g = (torch.randn(n, c, side, side, dtype=dtype, device=device).to(memory_format=torch.channels_last)
            for c, side in ((i, size), (o, out)))
    weight = torch.zeros(o, i // groups, kernel, kernel, dtype=dtype, device=device)
    total = weight.float()
    steps = ((stride,) * 2, (padding,) * 2, (1, 1))
    images, gradients, plane = x.unsqueeze(1), g.unsqueeze(1), Plane(*steps, groups)
    candidates = [Tile(rows, columns, depth, 8 if rows * columns > 4096 else 4, 3) for rows in (128, 64)
                  for columns in (128, 64) for depth in (64, 32)] if tiles and groups == 1 and kernel > 1 else []
    return Case(
        name, lambda: conv.products(images, gradients, total, Geometry(*steps, groups), 2, MEMORY),
        lambda: torch.ops.aten.convolution_backward(g, x, weight, None, *steps, False, [0, 0], groups,
                                                    [False, True, False]),
        {str(tuple(tile)): lambda tile=tile: conv.launch(images, gradients, total, plane, 2, tile, 4)
         for tile in candidates})


def embedding_case(name: str, n: int, t: int, rows: int, width: int, dtype: torch.dtype, device: str) -> Case:
    """Against the library's dense gradient. Its sort needs real numbers: without a device it is on the CPU."""
    from forgetting.fisher.kernels import embedding

    where = "cpu" if device == "meta" else device
    tokens = torch.randint(rows, (n, t), device=where)
    g = torch.randn(n, t, width, dtype=dtype, device=where)
    total = torch.zeros(rows, width, device=where)
    return Case(name, lambda: embedding.products(tokens, g, total, None, 2, MEMORY),
                lambda: torch.ops.aten.embedding_dense_backward(g, tokens, rows, -1, False), {})


def penalty_case(name: str, size: int, count: int, dtype: torch.dtype, device: str) -> Case:
    """Value and gradient, against torch's functions over lists of tensors."""
    from forgetting.regularizers import kernels

    def tensors(kind: torch.dtype) -> list[Tensor]:
        return [torch.rand(size // count, dtype=kind, device=device) for _ in range(count)]

    weights, gradients = tensors(dtype), tensors(dtype)
    anchors, importances = tensors(torch.float32), tensors(torch.float32)

    def reference() -> Tensor:
        away = torch._foreach_sub(weights, anchors)
        pull = torch._foreach_mul(away, importances)
        torch._foreach_add_(gradients, pull)
        return torch.stack(torch._foreach_norm(torch._foreach_mul(away, pull), 1)).sum()

    return Case(name, lambda: kernels.quadratic(weights, anchors, importances, gradients, 1e-6), reference, {})


def repeated(function: Callable[[], object]) -> Callable[[], None]:
    """The same call some times."""
    def calls() -> None:
        for _ in range(REPEATS):
            function()

    return calls


def measured(case: Case, rounds: int) -> dict[str, object]:
    """Times in milliseconds and the ratio of the kernel to the library; the candidates' tiles beside it."""
    candidates = {"kernel": case.kernel, "reference": case.reference, **case.tiles}
    times = interleave({name: repeated(call) for name, call in candidates.items()}, rounds, "cuda")
    entry: dict[str, object] = {"ratio": ratio(times, "kernel", "reference"), "must": case.must}
    for name in ("kernel", "reference"):
        entry[f"{name}, ms"] = round(min(times[name]) / REPEATS * 1e3, 4)
    if case.tiles:
        entry["tiles"] = {name: ratio(times, name, "reference")["median"] for name in case.tiles}
    return entry


def dry_run(capability: int, say: Callable[[str], None]) -> int:
    """List every case and compile what it launches; how many kernels that are."""
    from benchmarks.speed.ahead import compiling

    seen = set()
    for case in cases("meta"):
        with compiling(capability) as found:
            case.kernel()
        say(case.name + (f"   (must be ≤ {case.must} ×)" if case.must else ""))
        for one in found:
            seen.add(one)
            say(f"    {one.kernel:<13} grid {'×'.join(map(str, one.grid)):<10} {one.warps} warps, {one.stages} stages, "
                f"{one.registers:>3} registers, {one.stack} bytes of stack, {one.shared / 1024:.0f} KiB shared"
                + (f", {one.matrix_unit}" if one.matrix_unit else ""))
    return len(seen)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "kernels-cuda.json", show_default=False,
              help="default: benchmarks/speed/results/kernels-cuda.json")
@click.option("--only", default="", help="cases whose name contains this")
@click.option("--tiles", is_flag=True, help="time a handful of tiles beside the one that is chosen")
@click.option("--rounds", default=15, show_default=True)
@click.option("--capability", type=click.Choice(["80", "90"]), default="90", show_default=True, help="of the dry run")
@click.option("--dry-run", is_flag=True, help="list the cases and compile their kernels, without a device")
def main(out: Path, only: str, tiles: bool, rounds: int, capability: str, dry_run: bool) -> None:
    """Time every kernel against the library's weight gradient on a CUDA device."""
    if dry_run:
        click.echo(f"{globals()['dry_run'](int(capability), click.echo)} kernels compiled for sm_{capability}")
        return
    if not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA device here; --dry-run compiles without one")
    store = Store(out, environment("cuda", torch.get_num_threads()), fresh=True)
    for case in cases("cuda", tiles):
        if only in case.name:
            store.add(case.name, entry := measured(case, rounds))
            click.echo(f"{case.name}: {entry['ratio']['median']:.2f} × ({entry['kernel, ms']} ms)")


if __name__ == "__main__":
    main()
